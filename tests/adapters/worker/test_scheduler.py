"""What an ElasticScheduler does around upstream's: without sockets, model and pools."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from sglang.srt.managers.scheduler import NextBatchPlan, Scheduler

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.worker import scheduler as module
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.control.worker.protocol import Run, WorkerProtocol
from tests.adapters.model.allocators import GROWN, SIZE, make
from tests.adapters.worker.runtimes import Batch, Clock


class Worker(ElasticScheduler):
    """`turns`: the batches of all turns that were carried out."""

    def __init__(self, grew=False, waits=False, sleeps=True):
        self.clock, self.page_size, self.own_tokens = Clock(), 1, SIZE
        self.turns, self.ticks, self.reported = [], [], 0
        self.rests, self.launched, self.enable_overlap = [], None, False
        self.expert_recorder = None
        self.runtime = SimpleNamespace(
            rank=1,
            grown={1: 0, 2: GROWN},
            slots=SimpleNamespace(take_growth=lambda: grew, beyond=0),
            step_clock=SimpleNamespace(tick=lambda *args: self.ticks.append(args)),
            protocol=WorkerProtocol(1),
            progress=[0, 0],
            may_sleep=lambda: sleeps,
            must_wait=lambda requests: waits,
            plane=SimpleNamespace(
                rest=lambda: self.rests.append("rest"), launched=lambda: self.launched
            ),
            slots_beyond=lambda *degrees: min(degrees) * 100,
        )
        self.token_to_kv_pool_allocator = make()
        self.model_config = SimpleNamespace(context_len=150)
        self.max_running_requests, self.max_queued_requests = 64, 7
        self.shown_capacity = self.max_total_num_tokens = SIZE
        self.waiting_queue, self.result_queue, self.first_seen = [], [], None
        self.running_batch = self.last_batch = None
        self.chunked_req = self._pending_chunked_abort_req = None
        self.grammar_manager = SimpleNamespace(grammar_queue=[])
        self.cur_batch_for_debug, self._engine_paused = "a batch", False

    def report_long_requests(self, requests):
        self.reported += 1


@pytest.fixture(autouse=True)
def carried_out(monkeypatch):
    """Turns are noted, which the tests of Turn are about."""

    def carry_out(self, steps):
        self._scheduler.turns.append((self._batch, [type(effect) for effect in steps]))

    monkeypatch.setattr(Turn, "carry_out", carry_out)


@pytest.fixture
def plans(monkeypatch):
    """Upstream plans a batch named after its call."""

    def plan(self, running_batch, last_batch):
        return NextBatchPlan(batch_to_run=Batch([]), running_batch=running_batch)

    monkeypatch.setattr(Scheduler, "get_next_batch_to_run", plan)


def running():
    return SimpleNamespace(reqs=[], batch_is_full=True)


def test_a_step_is_planned_by_upstream_and_agreed_on_with_the_peers(plans):
    worker, batch = Worker(), running()
    plan = worker.get_next_batch_to_run(batch, None)
    assert worker.turns == [(plan.batch_to_run, [Run])]
    assert worker.ticks == [(True, False)] and worker.runtime.progress == [0, 1]
    # SGLang's watchdog must not take waiting for a peer for a forward that hangs.
    assert worker.cur_batch_for_debug is None and worker.reported == 1
    assert batch.batch_is_full, "nothing has grown"


def test_nothing_runs_that_could_use_up_what_an_order_needs(plans):
    worker = Worker(waits=True)
    plan = worker.get_next_batch_to_run(running(), None)
    assert plan.batch_to_run is None and worker.turns == [(None, [Run])]
    assert worker.clock.slept == [0.005] and worker.ticks == [(False, False)]


def test_prompts_that_have_just_run_are_taken_over_first():
    last = SimpleNamespace(forward_mode=SimpleNamespace(is_extend=lambda: True), reqs=[])
    decoded = SimpleNamespace(forward_mode=SimpleNamespace(is_extend=lambda: False), reqs=[])
    worker = Worker(waits=True)
    assert not worker.must_wait(running(), last)
    assert worker.must_wait(running(), decoded) and worker.must_wait(running(), None)


@pytest.mark.parametrize("paused", [False, True])
def test_a_paused_engine_goes_on_meeting_its_peers(monkeypatch, paused):
    monkeypatch.setattr(Scheduler, "ingest_requests", lambda self, stop: ["a request"])
    worker = Worker()
    worker._engine_paused = paused
    before = worker.clock.time
    assert worker.ingest_requests() == ["a request"]
    assert worker.received_at > before
    assert worker.turns == ([(None, [Run])] if paused else [])


@pytest.mark.parametrize("sleeps", [True, False])
def test_a_worker_sleeps_when_no_peer_waits_for_it(monkeypatch, sleeps):
    worker, done = Worker(sleeps=sleeps), []
    monkeypatch.setattr(Scheduler, "on_idle", lambda self: done.append("slept"))
    worker.on_idle()
    assert done == (["slept"] if sleeps else []) and worker.rests == ["rest"]


def test_limits_are_what_all_degrees_hold_and_the_model_can_read():
    worker = Worker()
    worker.follow_capacity((1,))
    assert (worker.max_req_len, worker.max_req_input_len) == (SIZE + 100 - 1, SIZE + 100 - 6)
    worker.follow_capacity((2, 4))
    assert worker.max_req_len == 150 - 1
    worker.follow_capacity((4, 1))
    assert worker.max_req_len == SIZE + 100 - 1


def test_the_router_is_told_what_the_worker_holds(monkeypatch):
    monkeypatch.setattr(Scheduler, "get_init_info", lambda self: {"status": "ready"})
    info = Worker().get_init_info()
    assert info["status"] == "ready" and (info["max_rows"], info["max_queued"]) == (64, 7)
    assert info["capacity"] == {
        "own_tokens": SIZE,
        "context_tokens": 150,
        "grown_tokens": {1: 0, 2: GROWN},
        "page_tokens": 1,
    }


@pytest.mark.parametrize("shown", [True, False])
def test_the_gauge_of_the_capacity_follows_it(shown):
    worker, values = Worker(), []
    gauge = SimpleNamespace(labels=lambda **labels: SimpleNamespace(set=values.append))
    worker.metrics_reporter = SimpleNamespace(current_scheduler_metrics_enabled=shown)
    worker.metrics_collector = SimpleNamespace(labels={"rank": 1}, max_total_num_tokens=gauge)
    for _ in range(2):
        worker.show_capacity()
    assert values == ([SIZE + GROWN] if shown else [])
    assert worker.shown_capacity == SIZE + GROWN


def test_orders_come_in_turn_with_requests_and_go_to_the_protocol(monkeypatch):
    monkeypatch.setattr(
        Scheduler,
        "init_request_dispatcher",
        lambda self: setattr(self, "_request_dispatcher", module.TypeBasedDispatcher([])),
    )
    worker = Worker()
    worker.init_request_dispatcher()
    order = TransformOrder(
        phase="abort", operation_id="x", epoch=1, ranks=[0, 1], before=[1, 1], after=[2, 2]
    )
    worker._request_dispatcher(order)
    [(batch, [effect])] = worker.turns
    assert batch is None and effect.__name__ == "StandDown"


def test_a_worker_is_made_after_upstream_s_and_is_connected_before_its_line_opens(monkeypatch):
    made, registered = [], []

    def init(self, server_args, ports):
        made.append("upstream")
        self.max_total_num_tokens = 77
        self.tp_worker = SimpleNamespace(model_runner=SimpleNamespace())
        poller = SimpleNamespace(register=lambda *args: registered.append(args))
        self.idle_sleeper = SimpleNamespace(poller=poller)

    def runtime(scheduler, config, rank, surroundings):
        made.append(("runtime", config, rank))
        bell = SimpleNamespace(fileno=lambda: 9)
        return SimpleNamespace(executor=SimpleNamespace(forward="joint"), bell=bell)

    monkeypatch.setattr(Scheduler, "__init__", init)
    monkeypatch.setattr(module, "ElasticRuntime", runtime)
    monkeypatch.setattr(module, "get_parallel", lambda: SimpleNamespace(dp_rank=3))
    monkeypatch.setattr(module.gc, "freeze", lambda: made.append("frozen"))
    around = SimpleNamespace(clock=Clock(), link=lambda rank: made.append("link") or rank)
    worker = ElasticScheduler(SimpleNamespace(_amoeba="config"), "ports", around)
    assert made == ["upstream", ("runtime", "config", 3), "link", "frozen"]
    assert worker.own_tokens == worker.shown_capacity == 77
    # The bell wakes the idle poller, and upstream's runner asks the executor first.
    assert registered == [(9, 1)] and worker.link == 3
    assert worker.tp_worker.model_runner.joint_forward == "joint"


def test_upstream_s_observers_are_completed(monkeypatch):
    monkeypatch.setattr(
        Scheduler, "init_pool_stats_observer", lambda self: setattr(self, "pool_stats_observer", 1)
    )
    monkeypatch.setattr(
        Scheduler, "init_load_inquirer", lambda self: setattr(self, "load_inquirer", 2)
    )
    monkeypatch.setattr(module.ElasticPoolStatsObserver, "around", lambda one: ("pool", one))
    monkeypatch.setattr(
        module.ElasticLoadInquirer, "around", lambda one, scheduler: ("load", one, scheduler)
    )
    worker = Worker()
    worker.init_pool_stats_observer()
    worker.init_load_inquirer()
    assert worker.pool_stats_observer == ("pool", 1)
    assert worker.load_inquirer == ("load", 2, worker)


@pytest.mark.parametrize("overlap", [False, True])
def test_what_belongs_to_forwards_runs_where_they_do(overlap):
    worker, noted = Worker(), []
    worker.enable_overlap = overlap
    with ExitStack() as stack:
        stack.callback(noted.append, "left")
        worker.forward_stream_ctx = stack
        with worker.forwards():
            noted.append("runs")
        assert noted == (["runs", "left"] if overlap else ["runs"])
