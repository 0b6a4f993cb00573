"""Who waits for whom when workers that step alone meet."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.worker.step_clock import MOST_DELAY, StepClock


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


def test_a_worker_with_long_to_wait_steps_on_but_not_for_longer_than_that():
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    ends[1] = round(1e6 * (times.now + 0.09))
    assert clock.should_defer([0, 1])
    # The other one has promised to be done by now, and is late.
    times.now += 0.1
    clock.tick(True)
    ends[1] = round(1e6 * (times.now + 0.09))
    assert not clock.should_defer([0, 1])
    clock.meet()
    assert clock.should_defer([0, 1])


def test_a_worker_streams_on_while_another_is_in_a_long_prefill():
    """It once gave up after two steps and stood still for the rest of the prefill."""
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    ends[1] = round(1e6 * (times.now + 0.94))
    steps = 0
    while clock.should_defer([0, 1]):
        steps += 1
        times.now += 0.1
        clock.tick(True)
    assert steps == 9
    # It meets half a step before the other one.
    assert 0 < ends[1] / 1e6 - times.now <= 0.05


def test_a_worker_meets_at_once_when_another_waits_already():
    times, ends = Times(), np.zeros(3, np.int64)
    clocks = [stepping(rank, ends, times, 0.1) for rank in range(2)]
    ends[2] = round(1e6 * (times.now + 0.09))
    assert clocks[0].should_defer([0, 2])
    clocks[1].meet()
    assert not clocks[0].should_defer([0, 1, 2])


def test_steps_are_promised_to_last_as_long_as_others_of_their_kind():
    """The last step was the promise, so peers put off meeting a decode step for a chunk's time."""
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    for step, next_is_chunk, promise in ((0.1, True, 0.0), (2.5, True, 2.5), (2.6, False, 0.1)):
        times.now += step
        clock.tick(True, next_is_chunk)
        assert ends[0] / 1e6 - times.now == pytest.approx(promise, abs=1e-5)


def test_a_prefill_chunk_does_not_start_late():
    """It was nearer to nobody then, and the others waited for longer than a chunk takes."""
    times, ends = Times(), np.zeros(2, np.int64)
    clock = stepping(0, ends, times, 0.1)
    ends[1] = round(1e6 * (times.now + 0.04))
    assert clock.delay([0, 1]) == pytest.approx(0.02, abs=1e-5)
    clock.tick(True, chunk=True)
    assert clock.delay([0, 1]) == 0


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


def longest_wait(phases, approach):
    """Of workers with steps of one second that begin at `phases`, when they are to meet.

    `approach`: they hear of it a step before. Returns (the longest wait for others, the longest
    delay of a step before that), in seconds.
    """
    times, ends = Times(), np.zeros(len(phases), np.int64)
    ranks = range(len(phases))
    clocks = [StepClock(ends, rank, lambda: times.now) for rank in ranks]
    following = {rank: 100.0 + phase for rank, phase in enumerate(phases)}
    delays, met = {}, {}
    while len(met) < len(ranks):
        rank = min(following.keys() - met.keys(), key=following.get)
        times.now, clock = following[rank], clocks[rank]
        assert times.now < 112, "they never meet"
        clock.tick(True)
        if approach and times.now > 103 and rank not in delays:
            delays[rank] = clock.delay(ranks)
            times.now += delays[rank]
            clock.start_late()
        elif times.now > 104.5 and not clock.should_defer(ranks):
            clock.meet()
            met[rank] = times.now
        following[rank] = times.now + 1.0
    return max(met.values()) - min(met.values()), max(delays.values(), default=0.0)


# Not so close to each other or to the next step that rounding to microseconds decides.
PHASES = st.lists(st.integers(0, 97), min_size=2, max_size=4, unique=True)


@given(PHASES, st.booleans())
def test_workers_meet_before_the_widest_gap_between_their_steps(hundredths, approach):
    """Whatever the phases between them; without deferring it would be up to a whole step."""
    phases = [hundredth / 100 for hundredth in sorted(hundredths)]
    gaps = [b - a for a, b in itertools.pairwise([*phases, phases[0] + 1])]
    wait, delay = longest_wait(phases, approach)
    apart = 1 - max(gaps)
    assert wait <= apart + 1e-3
    assert delay <= MOST_DELAY + 1e-3


@given(st.integers(1, 99))
def test_two_workers_that_approach_wait_for_a_quarter_of_a_step(hundredths):
    wait, delay = longest_wait([0.0, hundredths / 100], approach=True)
    assert wait <= MOST_DELAY + 1e-3
    assert delay <= MOST_DELAY + 1e-3
