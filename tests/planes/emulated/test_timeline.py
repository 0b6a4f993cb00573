import pytest

from amoeba_sglang.planes.emulated.timeline import Launched, Timeline


class Clock:
    def __init__(self):
        self.time, self.slept = 100.0, []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timeline(clock):
    return Timeline(clock)


def test_work_takes_its_time(clock, timeline):
    timeline.launch(0.3)
    assert clock.time == 100.0
    timeline.synchronize()
    assert clock.time == pytest.approx(100.3)
    timeline.synchronize()
    assert len(clock.slept) == 1


def test_work_runs_in_turn_and_each_has_its_own_end(clock, timeline):
    timeline.launch(0.3)
    first = Launched(timeline)
    timeline.launch(0.5)
    first.synchronize()
    assert clock.time == pytest.approx(100.3)
    timeline.synchronize()
    assert clock.time == pytest.approx(100.8)
    assert timeline.busy_seconds == pytest.approx(0.8)


def test_python_between_two_steps_is_hidden_while_the_device_runs(clock, timeline):
    timeline.launch(0.3)
    clock.time += 0.2
    timeline.launch(0.3)
    assert timeline.free_at == pytest.approx(100.6)
    assert timeline.late_seconds == 0


def test_what_comes_after_the_device_is_done_is_late_unless_the_worker_rested(clock, timeline):
    timeline.launch(0.3)
    clock.time += 0.5
    timeline.launch(0.3)
    assert timeline.late_seconds == pytest.approx(0.2)
    assert timeline.free_at == pytest.approx(100.8)
    clock.time += 5
    timeline.rest()
    timeline.launch(0.3)
    assert timeline.late_seconds == pytest.approx(0.2)
    assert timeline.free_at == pytest.approx(105.8)
