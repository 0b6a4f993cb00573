"""TCP ports that stay free until a server binds them."""

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(first: int, last: int, tries: int = 500) -> int:
    """A port of 127.0.0.1 from `first` to `last` that nothing is bound to.

    The kernel gives outgoing connections ports of its ephemeral range (from 32768 on unless it was
    changed), and a server takes half a minute to bind its own: ports below that range are chosen if
    there are any. They are drawn at random, so that two servers that start together differ.
    RuntimeError after `tries` draws.
    """
    below = int(_EPHEMERAL.read_text().split()[0]) - 1
    if below >= first:
        last = min(last, below)
    for port in random.SystemRandom().choices(range(first, last + 1), k=tries):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free TCP port on 127.0.0.1 from {first} to {last} in {tries} tries")
