"""An emulated worker: its plane takes time, and results are there when the device is done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt import runtime_context
from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.emulated.executor import EmulatedExecutor
from amoeba_sglang.adapters.emulated.sampler import EmulatedSampler
from amoeba_sglang.adapters.emulated.scheduler import EmulatedScheduler
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import StepSums

CHAIN = DegreeChain((1, 2, 4))
EMULATION = Emulation(load_device("h100-96-32b-roofline"), 10.0)
TOKENS = EMULATION.device.elastic_tokens(CHAIN.degrees)
CONFIG = AmoebaConfig(4, 1, CHAIN.degrees, 64, 100, "/run", emulation=EMULATION)


class Clock:
    def __init__(self):
        self.time = 50.0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


@pytest.fixture(autouse=True)
def alone():
    """Upstream's context of a process, whose groups its sampler asks for."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    with runtime_context.use_context(context):
        context.override_server_args(device="cpu").install()
        group = SimpleNamespace(world_size=1, rank_in_group=0, device_group=None)
        runtime_context.get_parallel().override_permanently(tp_group=group)
        yield


class Worker(EmulatedScheduler):
    """Without anything of upstream's around it."""

    def __init__(self, slots=TOKENS[1]):
        self.clock = Clock()
        self.token_to_kv_pool_allocator = SimpleNamespace(num_pages=slots)
        self.model_config = SimpleNamespace(vocab_size=5000)
        self.tp_worker = SimpleNamespace(model_runner=SimpleNamespace(sampler=None))
        self.runtime = SimpleNamespace(rank=2)
        self.plane = self.make_data_plane(CONFIG, CHAIN, rank=2, groups=None)


def test_the_plane_has_what_the_device_has():
    worker = Worker()
    plane = worker.plane
    assert isinstance(plane.executor, EmulatedExecutor) and plane.executor.index == 2
    assert len(plane.executor.layers) == EMULATION.device.model.layers
    assert plane.grown == {degree: TOKENS[degree] - degree * TOKENS[1] for degree in TOKENS}
    assert sorted(plane.movers) == [2, 4]
    assert isinstance(worker.tp_worker.model_runner.sampler, EmulatedSampler)


def test_moves_and_copies_take_time_on_the_clock_of_the_server():
    worker = Worker()
    copied, started = worker.plane.copy_clock, worker.plane.copy_clock()
    assert worker.plane.pages.move_layers(range(8), 4) == 0
    assert copied() == pytest.approx(started + EMULATION.device.mapping_seconds / 8)
    started = copied()
    worker.plane.views.copy_slots([1, 2], [3, 4], 1 << 20)
    assert copied() > started


def test_a_pool_of_another_size_than_the_device_s_is_a_bug():
    with pytest.raises(AssertionError):
        Worker(slots=TOKENS[1] - 1)


def test_a_result_is_there_when_the_device_is_done(monkeypatch):
    worker, result = Worker(), SimpleNamespace()
    monkeypatch.setattr(Scheduler, "run_batch", lambda self, batch: result)
    worker.timeline.launch(3.0)
    assert worker.run_batch("a batch") is result
    worker.timeline.launch(4.0)
    result.copy_done.synchronize()
    assert worker.clock.time == 53.0


def test_a_worker_that_idles_is_not_late(monkeypatch):
    worker, idled = Worker(), []
    monkeypatch.setattr(ElasticScheduler, "on_idle", lambda self: idled.append(self))
    worker.timeline.launch(1.0)
    worker.on_idle()
    worker.clock.time += 60.0
    worker.timeline.launch(2.0)
    report = worker.steps_measured({1: StepSums(1, [[1.0]])})
    assert idled == [worker]
    assert (report.rank, report.busy_seconds, report.late_seconds) == (2, 3.0, 0.0)
    assert list(report.sums) == [1]


def test_there_are_no_bits_to_compare():
    assert Worker().log_digest("before") is None
