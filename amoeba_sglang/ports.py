"""TCP ports: ones that stay free until a server binds them, and whether one can be bound at all."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from amoeba_sglang.errors import ConfigError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(first: int, last: int, tries: int = 500) -> int:
    """A port of 127.0.0.1 from `first` to `last` that nothing is bound to.

    The kernel gives outgoing connections ports of its ephemeral range (from 32768 on unless it was
    changed), and a server takes half a minute to bind its own: ports below that range are chosen if
    there are any. They are drawn at random, so that two servers that start together differ.
    ConfigError after `tries` draws.
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
    raise ConfigError(f"no free TCP port on 127.0.0.1 from {first} to {last} in {tries} tries")


def require_free(host: str, port: int) -> None:
    """Raise ConfigError if `--port` of `--host` cannot be bound: SGLang would only find out once
    all workers are up."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, kind, _, _, (address, _, *more) = found[0]
        with socket.socket(family, kind) as probe:
            # As servers do: what a former one has left in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port, *more))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--host {host} --port {port}: {reason}") from None
