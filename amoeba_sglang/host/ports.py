"""Whether a server's TCP port can be bound at all."""

import socket

from amoeba_sglang.errors import ConfigError


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
