"""Everything that decides. Pure: numbers and the time in, values out; no torch, no sockets."""
