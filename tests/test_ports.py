"""Ports stay free until they are bound."""

import socket

import pytest

from amoeba_sglang import ports
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.ports import free_port, require_free


def test_no_outgoing_connection_can_take_it(tmp_path, monkeypatch):
    """A test server's port, asked of the kernel, was given to a connection while it started."""
    limits = tmp_path / "ip_local_port_range"
    monkeypatch.setattr(ports, "_EPHEMERAL", limits)
    limits.write_text("20050\t60999\n")
    assert 20000 <= free_port(20000, 29999) < 20050
    # Where every port may be taken, as servers are often tuned, one is chosen all the same.
    limits.write_text("1024\t65535\n")
    assert 20000 <= free_port(20000, 29999) <= 29999


def test_a_bound_port_is_not_free():
    first = free_port(10000, 19999)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", first))
        with pytest.raises(ConfigError, match=f"from {first} to {first} in 500 tries"):
            free_port(first, first)


def test_two_servers_that_start_together_differ():
    assert len({free_port(10000, 19999) for _ in range(20)}) > 15


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
