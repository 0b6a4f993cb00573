"""The router process as an adapter: what it makes of SGLang's messages and of effects."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from sglang.srt.environ import envs
from sglang.srt.managers import io_struct
from sglang.srt.managers.io_struct import (
    AbortReq,
    ContinueGenerationReqInput,
    FlushCacheReqInput,
    FlushCacheReqOutput,
    GetWeightsByNameReqInput,
    PauseGenerationReqInput,
    ShutdownReq,
    UpdateWeightFromDiskReqInput,
)

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.messages import (
    AdminReply,
    AdminRequest,
    IdleQuestion,
    LimitsChanged,
    TransformOrder,
    WeightsRefused,
    WorkerReport,
)
from amoeba_sglang.adapters.router import translation
from amoeba_sglang.adapters.router.controller import ElasticController
from amoeba_sglang.clock import Clock
from amoeba_sglang.config import ModelHeads, build_config
from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.reports import (
    Done,
    IdleAnswer,
    LongRequestsHere,
    Progress,
    StepsMeasured,
    StepSums,
    TransformReport,
    Vote,
)
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.effects import End, RefuseControl
from amoeba_sglang.control.router.events import Arrival
from amoeba_sglang.control.router.metrics import NoMetrics
from amoeba_sglang.control.router.waiting_limits import WaitingLimits
from amoeba_sglang.flags import make_parser
from tests.control.router.values import CAPACITY, LONG, make_terms

REPORTS = [
    Vote(rank=1, epoch=2, accept=False, reason="full"),
    Progress(rank=0, epoch=2, boundary=9, pace="all"),
    Done(rank=3, epoch=2, report=TransformReport(seconds=0.5, kv_bytes=7, error="x")),
    StepsMeasured(rank=0, sums={1: StepSums(3, [[1.0]]), 2: StepSums(4, [[2.0]])}),
    LongRequestsHere(rank=1, request_ids=["a"], ended=["b"]),
    IdleAnswer(rank=2, number=4, idle=True),
]


class Ended(Exception):
    """In the place of the end of the process."""


class Router(ElasticController):
    """Without sockets and processes: what it sends is kept."""

    def __init__(self):
        self.clock, self.config = Clock(), SimpleNamespace(workers=4)
        self.desk = Desk(make_terms(), Layout.uniform(4, 1), self.clock.now())
        self.to_workers, self.front_end, self.reports = [], [], []
        self.metrics, self._last_refresh_time = NoMetrics(), 0.0
        self.load_snapshot_reader = SimpleNamespace(read_all=list)
        self.guard = SimpleNamespace(stopping=False, end_server=self.end_server, check=int)
        self.dispatching = lambda message: self.tell(Arrival(translation.to_request(message)))
        self.init_dispatcher()

    def end_server(self, reason):
        raise Ended(reason)

    def send_to_worker(self, rank, message):
        self.to_workers.append((rank, message))

    def send_control_message(self, message):
        self.to_workers += [(rank, message) for rank in range(4)]

    def send_to_front_end(self, message):
        self.front_end.append(message)

    def take(self, message):
        self._request_dispatcher(message)

    def hear(self, report):
        self.tell(WorkerReport(report=report).report)

    def transform(self, ranks, degree, operation_id="op"):
        body = {"ranks": ranks, "degree": degree, "operation_id": operation_id, "wait": True}
        self.take(AdminRequest(rid="w", kind="transform", body=body))


@pytest.fixture
def router():
    return Router()


def message(prompt=10, output=4, rank=None, rid="r"):
    return SimpleNamespace(
        rid=rid,
        http_worker_ipc="ipc",
        input_ids=[1] * prompt,
        sampling_params=SimpleNamespace(max_new_tokens=output),
        routed_dp_rank=rank,
    )


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_every_report_travels_typed_in_both_formats_of_the_sockets(report):
    sent = WorkerReport(report=report)
    assert io_struct.msgpack_decode(io_struct.msgpack_encode(sent)).report == report
    assert io_struct.pickle.loads(io_struct.pickle.dumps(sent)).report == report


def test_requests_travel_as_they_came(router):
    sent = message()
    router.dispatching(sent)
    assert router.to_workers == [(0, sent)]


def test_a_refused_request_is_ended_with_status_and_reason(router):
    router.dispatching(message(prompt=90, output=9))
    [answer] = router.front_end
    assert isinstance(answer, AbortReq)
    assert (answer.rid, answer.http_worker_ipc) == ("r", "ipc")
    reason = answer.finished_reason
    assert (reason["type"], reason["status_code"]) == ("abort", 400)
    assert reason["err_type"] == "BadRequestError" and "99" in reason["message"]


def test_a_rank_that_does_not_exist_is_an_error_of_its_client_alone(router):
    assert router.maybe_external_dp_rank_routing(message(rank=99))
    assert router.front_end[0].finished_reason["status_code"] == 400
    assert router.to_workers == []


def test_a_transformation_end_to_end(router):
    router.transform([2, 3], 2)
    (first, order), (second, _) = router.to_workers
    assert (first, second) == (2, 3) and isinstance(order, TransformOrder)
    assert (order.phase, order.operation_id, order.epoch) == ("prepare", "op", 1)
    assert (order.ranks, order.before, order.after) == ([2, 3], [1, 1], [2, 2])
    for rank in (2, 3):
        router.hear(Vote(rank=rank, epoch=1, accept=True))
    assert [order.phase for _, order in router.to_workers[2:]] == ["commit", "commit"]
    for rank in (2, 3):
        router.hear(Done(rank=rank, epoch=1, report=TransformReport()))
    limits, reply = router.front_end
    assert isinstance(limits, LimitsChanged) and limits.limits == asdict(router.desk.limits)
    assert isinstance(reply, AdminReply) and (reply.rid, reply.status) == ("w", 200)


def test_an_abort_names_its_finish_reason_to_who_waits(router):
    router.transform([0, 1], 2)
    router.dispatching(message(**LONG, rid="long"))
    router.to_workers.clear()
    abort = AbortReq(rid="long", finished_reason={"type": "abort"})
    router.take(abort)
    [answer] = router.front_end
    assert (answer.rid, answer.finished_reason) == ("long", {"type": "abort"})
    assert router.to_workers == [(rank, abort) for rank in range(4)]


@pytest.mark.parametrize("kind", ["state", "load"])
def test_questions_are_answered_under_their_id(router, kind):
    router.take(AdminRequest(rid="w", kind=kind))
    [reply] = router.front_end
    assert (reply.rid, reply.status) == ("w", 200)


def test_control_requests_are_refused_in_the_place_of_every_worker(router):
    router.transform([0, 1], 2)
    router.to_workers.clear()
    router.take(UpdateWeightFromDiskReqInput(model_path="m"))
    router.take(GetWeightsByNameReqInput(name="w"))
    updates, reads = router.front_end[:4], router.front_end[4:]
    assert not any(answer.success for answer in updates) and len(reads) == 4
    assert "operation op is running" in updates[0].message
    assert all(isinstance(one, WeightsRefused) and one.parameter is None for one in reads)
    assert "can only be read" in reads[0].reason
    assert router.to_workers == []


def test_control_requests_that_are_allowed_reach_every_worker(router):
    for sent in (
        UpdateWeightFromDiskReqInput(model_path="m"),
        GetWeightsByNameReqInput(name="w"),
        PauseGenerationReqInput(),
        ContinueGenerationReqInput(),
    ):
        router.take(sent)
        assert router.to_workers == [(rank, sent) for rank in range(4)]
        router.to_workers.clear()


def test_a_flush_asks_and_then_flushes_all(router):
    router.take(FlushCacheReqInput(timeout_s=5.0))
    assert [(rank, one.number) for rank, one in router.to_workers] == [(r, 1) for r in range(4)]
    assert isinstance(router.to_workers[0][1], IdleQuestion)
    router.to_workers.clear()
    for rank in range(4):
        router.hear(IdleAnswer(rank=rank, number=1, idle=True))
    assert [type(sent) for _, sent in router.to_workers] == [FlushCacheReqInput] * 4
    # Workers that are idle need no time.
    assert router.to_workers[0][1].timeout_s is None
    assert router.front_end == []


def test_a_flush_that_fails_says_why():
    answer = translation.refusal_of(RefuseControl(FlushCacheReqInput(), "busy"))
    assert isinstance(answer, FlushCacheReqOutput)
    assert (answer.success, answer.message) == (False, "busy")


@pytest.mark.parametrize(("seconds", "expected"), [(2.5, 2.5), (-1.0, None)])
def test_the_desk_is_told_what_the_server_is(seconds, expected):
    flags = make_parser().parse_args(["--amoeba-policy", "static"])
    config = build_config(
        flags,
        group_size=2,
        groups=2,
        heads=ModelHeads(12, 4, 30, 1000, 2048),
        kv_page=1,
        run_directory="/run",
    )
    worker = {"capacity": asdict(CAPACITY), "max_rows": 64, "max_queued": 7}
    with envs.SGLANG_REQ_WAITING_TIMEOUT.override(seconds):
        terms = translation.to_terms(config, choose_backend("cpu", None), worker, truncates=False)
    assert terms.waiting == WaitingLimits(4, 7, expected)
    assert (terms.workers, terms.layers, terms.chain.degrees) == (4, 30, (1, 2))
    assert terms.capacity == CAPACITY and terms.policy.layout is None


def test_the_age_of_a_snapshot_is_told_by_the_clock_of_the_server():
    clock = Clock(dilation=4.0)
    published = SimpleNamespace(
        dp_rank=2, timestamp=clock.wall() - 8.0, num_running_reqs=1, num_waiting_reqs=2,
        num_total_tokens=3, num_waiting_uncached_tokens=4, num_used_tokens=5,
        max_total_num_tokens=100,
    )  # fmt: skip
    found = translation.to_snapshot(published, clock, 100.0)
    assert found.taken_at == pytest.approx(98.0, abs=0.1)
    assert (found.rank, found.running, found.waiting) == (2, 1, 2)
    assert (found.tokens, found.to_prefill, found.used_tokens) == (3, 4, 5)


def test_an_operation_that_is_stuck_ends_the_server(router):
    with pytest.raises(Ended, match="no way on"):
        router.carry_out(End("no way on"))


def test_after_a_shutdown_the_workers_may_end(router):
    router.take(ShutdownReq())
    assert router.guard.stopping
    assert len(router.to_workers) == 4
