"""Control requests as a worker answers them."""

from types import SimpleNamespace

import pytest
from sglang.srt.managers import io_struct
from sglang.srt.managers.scheduler import Scheduler
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.adapters.messages import IdleQuestion
from amoeba_sglang.adapters.worker.control_requests import ControlRequests
from amoeba_sglang.control.reports import IdleAnswer
from tests.adapters.model.allocators import GROWN, SIZE, make


class Layer:
    def __init__(self, log):
        self.log = log

    def restore_upstream_order(self):
        self.log.append("restored")

    def adopt_weights(self):
        self.log.append("adopted")


class Worker(ControlRequests):
    """With upstream's dispatcher of a single kind of request."""

    def __init__(self, idle=True):
        self.log, self.sent, self.idle = [], [], idle
        executor = SimpleNamespace(
            layers=[Layer(self.log), Layer(self.log)],
            synchronize=lambda: self.log.append("synchronized"),
        )
        self.runtime = SimpleNamespace(rank=3, executor=executor)
        self.link = SimpleNamespace(send=self.sent.append)
        self._engine_paused = False
        self.token_to_kv_pool_allocator = make()
        self.profiler_manager = SimpleNamespace(_profile=self.log.append)
        self.init_request_dispatcher()

    def is_fully_idle(self, ignore_waiting):
        return self.idle and ignore_waiting == self._engine_paused


@pytest.fixture(autouse=True)
def upstream(monkeypatch):
    def init(self):
        kinds = (io_struct.UpdateWeightFromDiskReqInput, io_struct.GetWeightsByNameReqInput)
        seen = [(kind, lambda request: self.log.append(request) or "done") for kind in kinds]
        self._request_dispatcher = TypeBasedDispatcher([*seen, (io_struct.FlushCacheReqInput, str)])

    monkeypatch.setattr(Scheduler, "init_request_dispatcher", init)


def test_weights_are_in_upstream_s_order_while_upstream_goes_by_their_names():
    worker = Worker()
    update = io_struct.UpdateWeightFromDiskReqInput(model_path="m")
    assert worker._request_dispatcher(update) == "done"
    # Nothing may run in the meantime.
    assert worker.log == ["synchronized", *2 * ["restored"], update, *2 * ["adopted"]]


def test_one_weight_concerns_one_layer():
    worker = Worker()
    read = io_struct.GetWeightsByNameReqInput(name="model.layers.1.mlp.down_proj.weight")
    worker._request_dispatcher(read)
    assert worker.log == ["synchronized", "restored", read, "adopted"]


@pytest.mark.parametrize("idle", [True, False])
def test_a_worker_says_whether_it_could_flush(idle):
    worker = Worker(idle)
    worker._request_dispatcher(IdleQuestion(number=4))
    assert worker.sent == [IdleAnswer(rank=3, number=4, idle=idle)]


def test_who_waits_does_not_count_while_the_engine_is_paused():
    worker = Worker()
    worker._engine_paused = True
    worker._request_dispatcher(IdleQuestion(number=5))
    assert worker.sent[0].idle


def test_other_requests_are_upstream_s():
    flush = io_struct.FlushCacheReqInput()
    assert Worker()._request_dispatcher(flush) == str(flush)


def test_the_capacity_that_is_told_is_what_the_worker_has_now(monkeypatch):
    told = SimpleNamespace(internal_state={"memory_usage": {"token_capacity": 1, "weight": 2}})
    monkeypatch.setattr(Scheduler, "get_internal_state", lambda self, request: told)
    state = Worker().get_internal_state(io_struct.GetInternalStateReq()).internal_state
    assert state == {"memory_usage": {"token_capacity": SIZE + GROWN, "weight": 2}}


def test_a_profiler_that_fails_ends_no_worker():
    worker, request = Worker(), io_struct.ProfileReq()
    worker._request_dispatcher(request)
    assert worker.log == [request]

    def fail(request):
        raise RuntimeError("Can't enable Kineto profiler")

    worker.profiler_manager._profile = fail
    answer = worker._request_dispatcher(request)
    assert (answer.success, answer.message) == (False, "Can't enable Kineto profiler")
