from __future__ import annotations

import select
import uuid

import pytest

from amoeba_sglang.transport import Bell


@pytest.fixture
def bells():
    run_id = uuid.uuid4().hex
    bells = [Bell(run_id, rank) for rank in range(3)]
    yield bells
    for bell in bells:
        bell.close()


def _is_readable(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_the_largest_tag_wins_and_reading_drains(bells):
    assert bells[1].latest() == (0, 0)
    assert not _is_readable(bells[1])
    bells[0].ring([1, 2], (1, 7))
    bells[2].ring([1], (2, 3))
    bells[0].ring([1], (1, 9))
    assert _is_readable(bells[1])
    assert _is_readable(bells[2])
    assert not _is_readable(bells[0])
    assert bells[1].latest() == (2, 3)
    assert not _is_readable(bells[1])
    assert bells[2].latest() == (1, 7)
    assert bells[1].latest() == (2, 3)


def test_a_full_queue_and_an_absent_peer_are_no_errors(bells):
    for step in range(1000):
        bells[0].ring([1, 99], (1, step))
    assert _is_readable(bells[1])
    epoch, step = bells[1].latest()
    assert epoch == 1
    assert 5 <= step < 999
    bells[0].ring([1], (1, 1000))
    assert bells[1].latest() == (1, 1000)


def test_names_are_free_again_and_separate_by_run():
    run_id = uuid.uuid4().hex
    first, other = Bell(run_id, 0), Bell(run_id + "x", 0)
    with pytest.raises(OSError, match="in use"):
        Bell(run_id, 0)
    first.close()
    again = Bell(run_id, 0)
    other.ring([0], (1, 1))
    assert again.latest() == (0, 0)
    assert other.latest() == (1, 1)
    again.close()
    other.close()
