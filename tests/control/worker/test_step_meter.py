import numpy as np
import pytest

from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.worker.step_meter import StepMeter, features

DECODE = StepWork(decode_rows=8, context_tokens=4000)
PREFILL = StepWork(prefill_tokens=512, prefill_context=512 * 256)


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def run(lag, script):
    """Launch each (work or None for a rest) after so many seconds, then ask for the sums."""
    clock = Clock()
    meter = StepMeter(lag, clock)
    for after, work in script:
        clock.time += after
        meter.rest() if work is None else meter.launch(2, work)
    clock.time += 1.0
    return meter.take()


def sums_of(*steps):
    rows = [features(work) / seconds for work, seconds in steps]
    return [*sum(np.outer(row, row) for row in rows).tolist(), sum(rows).tolist()]


def test_a_step_lasts_until_the_next_is_launched():
    taken = run(0, [(0, DECODE), (0.03, PREFILL), (0.09, DECODE)])
    assert taken[2].steps == 2
    assert taken[2].sums == [pytest.approx(r) for r in sums_of((DECODE, 0.03), (PREFILL, 0.09))]


def test_a_device_that_is_one_step_behind_ends_each_when_the_next_but_one_is_launched():
    # Launched at once, the second step waits for the first: 90 ms later its successor comes.
    taken = run(1, [(0, PREFILL), (0.001, DECODE), (0.09, DECODE), (0.03, DECODE)])
    assert taken[2].sums == [pytest.approx(r) for r in sums_of((PREFILL, 0.09), (DECODE, 0.03))]


@pytest.mark.parametrize("lag", [0, 1])
def test_time_without_work_is_no_part_of_a_step(lag):
    assert run(lag, [(0, DECODE), (9.0, None), (0.5, PREFILL), (9.0, None)]) is None


def test_sums_are_given_once_and_not_at_every_step():
    clock = Clock()
    meter = StepMeter(0, clock)
    for _ in range(5):
        meter.launch(1, DECODE)
        clock.time += 0.1
    assert meter.take() is None
    clock.time += 1.0
    assert meter.take()[1].steps == 4
    clock.time += 5.0
    assert meter.take() is None
