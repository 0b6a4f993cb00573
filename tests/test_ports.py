"""Ports stay free until they are bound."""

import socket

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.ports import free_port, require_free


def first_ephemeral():
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        return int(file.read().split()[0])


def test_no_outgoing_connection_can_take_it():
    # A test server's port, asked of the kernel, was given to a connection while it started.
    port = free_port(first_ephemeral() - 50, 65535)
    assert first_ephemeral() - 50 <= port < first_ephemeral()


def test_a_bound_port_is_not_free():
    first = free_port(10000, 19999)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", first))
        with pytest.raises(ConfigError, match=f"from {first} to {first} in 500 tries"):
            free_port(first, first)


def test_two_servers_that_start_together_differ():
    assert len({free_port(10000, 19999) for _ in range(20)}) > 15


def test_a_range_above_the_limit_is_one_clear_line():
    with pytest.raises(ConfigError, match="no free TCP port on 127.0.0.1 from 65000"):
        free_port(65000, 65535)


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


def test_a_host_that_is_not_here_is_one_clear_line():
    with pytest.raises(ConfigError, match="--host 192.0.2.1 --port 1234: "):
        require_free("192.0.2.1", 1234)
