"""TCP ports that stay free between the moment they are chosen and the moment they are bound."""

from __future__ import annotations

import random
import socket

from amoeba_sglang.errors import ConfigError


def free_port(first: int, last: int, tries: int = 500) -> int:
    """A port of 127.0.0.1 from `first` to `last` that nothing is bound to.

    The kernel gives outgoing connections ports of its ephemeral range (from 32768 on unless it was
    changed), and a server takes half a minute to bind its own: `last` is kept below that range.
    Ports are drawn at random, so that two servers that start together differ. ConfigError after
    `tries` draws.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        last = min(last, int(file.read().split()[0]) - 1)
    if last >= first:
        for port in random.SystemRandom().choices(range(first, last + 1), k=tries):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
    raise ConfigError(f"no free TCP port on 127.0.0.1 from {first} to {last} in {tries} tries")
