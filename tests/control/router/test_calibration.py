import pytest

from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.policy.throughput import StepCost, ThroughputTable
from amoeba_sglang.control.router.calibration import Calibration
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.worker.step_meter import StepMeter

CAPACITY = Capacity(
    own_tokens=1000, context_tokens=8000, grown_tokens={1: 0, 2: 600, 4: 3000}, page_tokens=1
)


class Clock:
    time = 0.0

    def __call__(self):
        return self.time


def measured(degree, cost, rows=(1, 5, 9, 40)):
    """What a meter says after steps of that cost."""
    clock = Clock()
    meter = StepMeter(0, clock)
    for count in rows:
        work = StepWork(decode_rows=count, context_tokens=100 * count)
        meter.launch(degree, work)
        clock.time += cost.seconds(count, 0, 100 * count)
    meter.launch(degree, StepWork(decode_rows=1))
    clock.time += 5.0
    return meter.take()


def ended(outcome, seconds):
    return Record("op", "", "merge", outcome, (0, 1), 2, (), seconds)


SLOW, FAST = StepCost(0.03, 1e-3, 0, 0, 0), StepCost(0.02, 5e-4, 0, 0, 0)


def test_there_is_no_table_before_a_step_of_degree_1():
    calibration = Calibration(CAPACITY, 64, None)
    assert calibration.table is None and calibration.describe() is None
    calibration.add(measured(2, FAST))
    assert calibration.table is None


def test_there_is_a_table_once_every_degree_is_known():
    calibration = Calibration(CAPACITY, 64, None)
    calibration.add(measured(1, SLOW))
    calibration.add(measured(2, FAST))
    assert calibration.table is None
    shown = calibration.describe()
    assert shown["degrees"].keys() == {"1", "2"} and not shown["complete"]
    assert shown["source"] == "4 steps of degree 1, 4 steps of degree 2"
    calibration.add(measured(4, FAST))
    table = calibration.table
    assert table.degrees[1].cost.seconds(5, 0, 500) == pytest.approx(0.035, rel=0.01)
    assert table.degrees[2].cost.seconds(5, 0, 500) == pytest.approx(0.0225, rel=0.01)
    assert [table.degrees[d].kv_tokens for d in (1, 2, 4)] == [1000, 2600, 7000]
    assert [table.degrees[d].max_rows for d in (1, 2, 4)] == [64, 128, 256]
    assert calibration.describe()["complete"]


def test_a_saved_table_holds_until_steps_are_measured():
    first = Calibration(CAPACITY, 64, None)
    for degree, cost in ((1, SLOW), (2, FAST), (4, FAST)):
        first.add(measured(degree, cost))
    first.finished(ended("done", 0.5))
    saved = ThroughputTable.from_json(first.table.to_json())
    calibration = Calibration(CAPACITY, 64, saved)
    table = calibration.table
    assert table.degrees == saved.degrees and table.transformation_s == 0.5
    assert table.source.startswith("a saved table for degree 1")
    calibration.add(measured(1, FAST))
    assert calibration.table.degrees[1].cost.seconds(5, 0, 500) == pytest.approx(0.0225, rel=0.01)
    assert calibration.table.degrees[2].cost == saved.degrees[2].cost


def test_only_transformations_that_were_done_say_how_long_they_take():
    calibration = Calibration(CAPACITY, 64, None)
    calibration.add(measured(1, SLOW))
    assert calibration.describe()["transformation_s"] == 0
    calibration.finished(ended("done", 1.0))
    calibration.finished(ended("refused", 20.0))
    calibration.finished(ended("done", 2.0))
    assert calibration.describe()["transformation_s"] == 1.5
