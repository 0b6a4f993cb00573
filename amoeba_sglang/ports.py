"""TCP ports: ones that stay free until a server binds them, and whether one can be bound at all."""

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


def require_free(host: str, port: int) -> None:
    """Raise ConfigError if `--port` of `--host` cannot be bound: SGLang would only find out once
    all workers are up."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As servers do: what a former one has left in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}") from None
