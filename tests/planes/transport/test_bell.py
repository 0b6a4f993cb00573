import os
import select
import socket
import struct

import pytest

from amoeba_sglang.planes.transport import Bell


@pytest.fixture
def bells(tmp_path):
    bells = [Bell(str(tmp_path), rank) for rank in range(3)]
    yield bells
    for bell in bells:
        bell.close()


def _is_readable(bell: Bell) -> bool:
    # Not select, which takes no descriptor above 1023.
    poller = select.poll()
    poller.register(bell, select.POLLIN)
    return bool(poller.poll(0))


def _send(bell: Bell, datagram: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(datagram, bell._socket.getsockname())


def test_reading_drains_and_finds_exactly_the_tag_asked_for(bells):
    assert not bells[1].rung((0, 0))
    assert not _is_readable(bells[1])
    bells[0].ring([1, 2], (1, 7))
    bells[2].ring([1], (2, 3))
    bells[0].ring([1], (1, 9))
    assert _is_readable(bells[1])
    assert _is_readable(bells[2])
    assert not _is_readable(bells[0])
    assert bells[1].rung((2, 3))
    assert not _is_readable(bells[1])
    assert bells[2].rung((1, 7))
    assert not bells[1].rung((2, 3))


def test_a_full_queue_and_an_absent_peer_are_no_errors(bells):
    for step in range(1000):
        bells[0].ring([1, 99], (1, step))
    assert _is_readable(bells[1])
    assert bells[1].rung((1, 0))
    bells[0].ring([1], (1, 1000))
    assert bells[1].rung((1, 1000))


def test_servers_in_different_directories_do_not_hear_each_other(bells, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(OSError, match="in use"):
        Bell(str(tmp_path), 0)
    stranger = Bell(str(other), 0)
    stranger.ring([0, 1], (1, 1))
    assert stranger.rung((1, 1))
    assert not bells[0].rung((1, 1))
    stranger.close()


@pytest.mark.parametrize(
    "datagram",
    [b"", b"x", struct.pack("<qqb", 5, 10, 0), struct.pack("<qq", 2**62, 0), os.urandom(5000)],
    ids=["empty", "short", "long", "future", "huge"],
)
def test_a_forged_ring_is_not_heard_and_hides_no_other(bells, datagram):
    _send(bells[1], datagram)
    assert not bells[1].rung((5, 10))
    assert not _is_readable(bells[1]), "it must not wake the sleeper again"
    _send(bells[1], datagram)
    bells[0].ring([1], (5, 10))
    _send(bells[1], datagram)
    assert bells[1].rung((5, 10))
