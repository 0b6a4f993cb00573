"""What a desk says to requests and questions while the layout changes only when asked to."""

import subprocess
import sys

import pytest

from amoeba_sglang.control.reports import Progress, StepsMeasured, StepSums
from amoeba_sglang.control.router.effects import (
    Answer,
    Cancel,
    End,
    Finished,
    Forward,
    Limits,
    Order,
    RefuseControl,
    Send,
)
from amoeba_sglang.control.router.events import LoadAsked, LoadsRead, StateAsked, WeightsAsked
from amoeba_sglang.control.router.loads import Snapshot
from tests.control.router.values import LONG, Case, request


@pytest.fixture
def case():
    return Case()


def test_the_desk_needs_neither_sglang_nor_sockets_nor_clocks():
    code = (
        "import sys; before = set(sys.modules); import amoeba_sglang.control.router.desk; "
        "print({name.split('.')[0] for name in sys.modules} & {'sglang', 'zmq', 'torch'})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_requests_go_where_the_policy_says(case):
    for _ in range(5):
        case.arrive()
    assert case.homes() == [0, 1, 2, 3, 0]
    [answer] = case.tell(LoadAsked("w"))
    assert [load["num_waiting_reqs"] for load in answer.body["loads"]] == [2, 1, 1, 1]
    assert [load["num_tokens"] for load in answer.body["loads"]] == [20, 10, 10, 10]


def test_a_pinned_request_goes_to_its_rank(case):
    assert case.arrive(rank=2) == [Send(2, request(rank=2))]


@pytest.mark.parametrize("rank", [-1, 4, 99])
def test_a_rank_that_does_not_exist_is_a_400(case, rank):
    case.arrive(rank=rank)
    [(_, status, reason)] = case.refusals()
    assert status == 400 and reason == f"routed_dp_rank {rank} is not in 0..3"
    assert case.found(Send) == []


def test_a_request_that_nothing_holds_is_a_400_with_the_numbers(case):
    case.arrive(prompt=90, output=9)
    [(rid, status, reason)] = case.refusals()
    assert (rid, status) == ("r", 400)
    assert "99" in reason and "98" in reason
    case.arrive(prompt=90, output=None)
    assert len(case.found(Send)) == 1


def test_workers_that_truncate_take_any_request():
    case = Case(truncates=True)
    case.arrive(prompt=5000, output=9)
    assert case.homes() == [0]
    case.transform([0, 1], 2)
    case.arrive(prompt=5000, output=9)
    assert case.homes() == [0, 1]


def test_a_transformation_end_to_end(case):
    assert case.transform([2, 3], 2) == [Order("prepare", "op", 1, (2, 3), (1, 1), (2, 2))]
    case.vote(2)
    assert case.orders() == [("prepare", (2, 3), 2)]
    case.vote(3)
    assert case.orders()[1:] == [("commit", (2, 3), 2)]
    case.tell(Progress(rank=2, epoch=1, boundary=10, pace="ten at a time"))
    assert case.running["boundary"] == 10
    case.said.clear()
    case.done(2, 3)
    assert [type(effect) for effect in case.said] == [Finished, Limits, Answer]
    assert case.answers() == [("w", 200)]
    assert case.degrees == (1, 1, 2, 2)


def test_the_state_shows_load_and_history(case):
    snapshot = Snapshot(1, 0.0, running=2, waiting=1, tokens=70, used_tokens=60)
    case.tell(LoadsRead([snapshot]))
    body = case.state()
    assert body["EMULATED"] is None and body["throughput"] is None
    assert body["instances"][1] == {
        "ranks": [1],
        "degree": 1,
        "running": 2,
        "queued": 1,
        "used_tokens": 60,
        "max_tokens": 100,
    }
    case.transform([0, 1], 2)
    case.finish(0, 1)
    [record] = case.state()["history"]
    assert record["ranks"] == [0, 1] and record["bytes_moved"] == {"kv": 0, "weights": 0}
    assert record["moves"] == 1 and record["instances"] == [[0, 1], [2], [3]]


def test_an_emulated_server_says_so_and_how_late_its_devices_are():
    case = Case(emulated={"device": "h100"})
    assert case.state()["EMULATED"] == {"device": "h100", "late_share": 0.0}
    sums = {1: StepSums(1, [[1.0] * 5] * 6)}
    report = StepsMeasured(rank=1, sums=sums, device={"busy_seconds": 9.0, "late_seconds": 1.0})
    case.tell(report)
    body = case.state()
    assert body["EMULATED"]["late_share"] == pytest.approx(0.1)
    assert body["throughput"]["source"] == "1 steps of degree 1"


def test_what_devices_count_is_added_up(case):
    assert case.state()["device"] == {}
    for rank, device in ((0, {"maps": 3}), (1, {"maps": 1}), (1, {"maps": 2, "unmaps": 5})):
        case.tell(StepsMeasured(rank=rank, sums={}, device=device))
    assert case.state()["device"] == {"maps": 5, "unmaps": 5}


@pytest.mark.parametrize("what", ["read", "updated"])
def test_weights_are_accessed_at_degree_one_only(case, what):
    """A merged worker answered with its shard."""
    access = WeightsAsked(what, "payload")
    assert case.tell(access) == [Forward("payload")]
    case.transform([0, 1], 2)
    [refusal] = case.tell(access)
    assert isinstance(refusal, RefuseControl) and refusal.payload == "payload"
    assert f"can only be {what}" in refusal.reason and "operation op is running" in refusal.reason
    case.finish(0, 1)
    [refusal] = case.tell(access)
    assert "the degrees are [2, 2, 1, 1]" in refusal.reason


def test_a_server_without_weights_says_why():
    [refusal] = Case(no_weights="an emulated server has none").tell(WeightsAsked("read", "payload"))
    assert refusal.reason == "weights cannot be read: an emulated server has none"


def test_a_stuck_operation_ends_the_server(case):
    case.transform([0, 1], 2)
    case.vote(0, 1)
    [end] = case.tick(121.0)
    assert isinstance(end, End) and "did not finish" in end.reason


def test_silence_before_commit_is_taken_back(case):
    case.transform([0, 1], 2)
    case.arrive(**LONG)
    case.tick(21.0)
    assert case.orders()[-1] == ("abort", (0, 1), 2)
    assert case.answers() == [("w", 504)]
    assert [status for _, status, _ in case.refusals()] == [400]


def test_an_abort_reaches_the_workers_and_ends_what_none_of_them_knows(case):
    assert case.abort("r") == [Forward("an abort")]
    case.transform([0, 1], 2)
    case.arrive(**LONG, rid="long")
    assert case.abort("long") == [Cancel(request(**LONG, rid="long"), "an abort")] + [
        Forward("an abort")
    ]


def test_questions_are_answered_while_nothing_is_known(case):
    [answer] = case.tell(StateAsked("w"))
    assert (answer.waiter, answer.status, answer.body["workers"]) == ("w", 200, 4)
