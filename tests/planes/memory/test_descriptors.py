import os
import socket
import time

import pytest

from amoeba_sglang.planes.memory import descriptors
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.descriptors import DescriptorServer, fetch_descriptors


@pytest.fixture
def server():
    """Serves three files that hold their key, 3, 4 and 5."""
    before = len(os.listdir("/proc/self/fd"))
    server = DescriptorServer()
    for key in (3, 4, 5):
        descriptor = os.memfd_create("test")
        os.write(descriptor, bytes([key]))
        server.add(key, descriptor)
    yield server
    server.close()
    assert len(os.listdir("/proc/self/fd")) == before


def fetch(server, first, count):
    """The content of the files."""
    content = []
    for descriptor in fetch_descriptors(os.getpid(), server.number, first, count):
        content.append(os.pread(descriptor, 1, 0)[0])
        os.close(descriptor)
    return content


def talk(server, message):
    """What the server answers to any message; nothing if it hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{server.number:05x}")
        try:
            # The server may hang up before it has everything.
            connection.sendall(message)
            return connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_descriptors_come_in_the_order_of_their_keys(server):
    assert fetch(server, 3, 3) == [3, 4, 5]
    assert fetch(server, 4, 1) == [4]


def test_dropped_descriptors_are_not_served(server):
    server.drop([3, 4])
    assert server.keys() == {5}
    assert fetch(server, 5, 1) == [5]
    for first, count in ((3, 3), (100, 1)):
        with pytest.raises(MemoryFault, match=r"[01] file descriptors of \d pages arrived"):
            fetch(server, first, count)


def test_a_bad_request_does_not_stop_the_server(server):
    assert talk(server, b"?") == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{server.number:05x}")
    assert fetch(server, 3, 1) == [3]


def test_a_silent_client_keeps_nobody_waiting(server):
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(5)]
    for connection in silent:
        connection.connect(f"\0{server.number:05x}")
    started = time.monotonic()
    assert fetch(server, 3, 1) == [3]
    # Any one of them would be waited for longer.
    assert time.monotonic() - started < descriptors._TIMEOUT_S / 2
    for connection in silent:
        connection.close()


def test_another_process_at_the_address_is_not_believed(server):
    with pytest.raises(MemoryFault, match=f"process 1: its socket is that of .*{os.getpid()} of"):
        fetch_descriptors(1, server.number, 3, 1)


def test_another_user_gets_nothing(server, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert talk(server, descriptors._REQUEST.pack(3, 1)) == b""
    with pytest.raises(MemoryFault, match="same user"):
        fetch(server, 3, 1)


def test_lost_descriptors_are_noticed_and_the_others_closed(server, monkeypatch):
    receive = socket.recv_fds

    def lose_one(*arguments):
        answer, (first, *others), flags, address = receive(*arguments)
        for other in others:
            os.close(other)
        return answer, [first], flags, address

    monkeypatch.setattr(socket, "recv_fds", lose_one)
    with pytest.raises(MemoryFault, match=r"1 file descriptors of 3 pages .*`ulimit -n`"):
        fetch(server, 3, 3)
