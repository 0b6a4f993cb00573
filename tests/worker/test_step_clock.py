"""Who waits for whom when workers that step alone meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.worker.step_clock import MOST_DEFERRALS, StepClock


class Times:
    def __init__(self):
        self.now = 100.0


def stepping(rank, ends, times, step):
    """A clock in the middle of decode: it has just planned its next step."""
    clock = StepClock(ends, rank, lambda: times.now)
    clock.tick(True)
    times.now += step
    clock.tick(True)
    return clock


def test_a_worker_with_little_to_wait_for_waits():
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    ends[1] = round(1e6 * (times.now + 0.04))
    assert not clock.should_defer([0, 1])


def test_a_worker_with_long_to_wait_steps_on_but_not_for_ever():
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    ends[1] = round(1e6 * (times.now + 0.09))
    assert [clock.should_defer([0, 1]) for _ in range(MOST_DEFERRALS + 1)] == [True, True, False]
    clock.meet()
    assert ends[0] == 0
    assert clock.should_defer([0, 1])


def test_nobody_steps_on_without_rows_or_for_peers_that_have_none():
    times, ends = Times(), np.zeros(3, np.int64)
    clock = stepping(0, ends, times, 0.1)
    assert not clock.should_defer([0, 1])
    ends[1] = ends[2] = round(1e6 * (times.now + 0.09))
    clock.tick(False)
    assert not clock.should_defer([0, 1])
    assert ends[0] == 0


def test_the_slowest_of_the_last_steps_counts():
    times, ends = Times(), np.zeros(1, np.int64)
    clock = stepping(0, ends, times, 0.3)
    for step in (0.1, 0.2):
        times.now += step
        clock.tick(True)
    assert clock.slowest_seconds == pytest.approx(0.3)


@given(st.floats(0.01, 0.99))
def test_two_workers_of_equal_steps_meet_within_half_a_step(phase):
    """Whatever the phase between them; without deferring it would be up to a whole step."""
    times, ends = Times(), np.zeros(2, np.int64)
    clocks = [StepClock(ends, rank, lambda: times.now) for rank in (0, 1)]
    events = sorted((rank * phase + step, rank) for rank in (0, 1) for step in range(8))
    waiting: dict[int, float] = {}
    for at, rank in events:
        times.now = 100.0 + at
        if rank in waiting:
            continue
        clocks[rank].tick(True)
        # COMMIT has come in the meantime.
        if at > 4 and not clocks[rank].should_defer([0, 1]):
            clocks[rank].meet()
            waiting[rank] = at
        if len(waiting) == 2:
            break
    assert len(waiting) == 2
    assert abs(waiting[0] - waiting[1]) <= 0.5 + 1e-3
