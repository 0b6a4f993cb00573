"""A server's port is looked at before its workers start."""

import socket

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.host.ports import require_free


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_port_that_a_server_listens_on_is_one_clear_line(host, family):
    """It was found out when the workers were up, half a minute later."""
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--host {host} --port {port}: Address already"):
            require_free(host, port)
    require_free(host, port)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("192.0.2.1", 1234, "Cannot assign"),
        ("127.0.0.1", 70000, ".*0-65535"),
        ("no such host", 1234, "."),
    ],
)
def test_what_cannot_be_bound_at_all_is_one_clear_line(host, port, reason):
    with pytest.raises(ConfigError, match=f"--host {host} --port {port}: {reason}"):
        require_free(host, port)
