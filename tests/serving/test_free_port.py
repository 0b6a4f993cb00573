"""Ports stay free until they are bound."""

import socket

import pytest

from tests.serving import free_port as module
from tests.serving.free_port import free_port


def test_no_outgoing_connection_can_take_it(tmp_path, monkeypatch):
    """A test server's port, asked of the kernel, was given to a connection while it started."""
    limits = tmp_path / "ip_local_port_range"
    monkeypatch.setattr(module, "_EPHEMERAL", limits)
    limits.write_text("20050\t60999\n")
    assert 20000 <= free_port(20000, 29999) < 20050
    # Where every port may be taken, as servers are often tuned, one is chosen all the same.
    limits.write_text("1024\t65535\n")
    assert 20000 <= free_port(20000, 29999) <= 29999


def test_a_bound_port_is_not_free():
    first = free_port(10000, 19999)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", first))
        with pytest.raises(RuntimeError, match=f"from {first} to {first} in 500 tries"):
            free_port(first, first)


def test_two_servers_that_start_together_differ():
    assert len({free_port(10000, 19999) for _ in range(20)}) > 15
