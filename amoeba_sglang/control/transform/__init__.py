"""How a transformation goes: which layers, which KV units, how many at a time."""
