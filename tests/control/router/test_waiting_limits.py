"""SGLang's limits for requests that wait at a worker hold for those that wait at the desk."""

import pytest

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router.waiting_limits import WaitingLimits
from tests.control.router.values import IN_TURN, LONG, WORKERS, Case


def case_with(policy, **limits):
    case = Case(policy, waiting=WaitingLimits(WORKERS, **limits), prepare_timeout_s=1e6)
    # While it decides, nobody is placed.
    case.transform([0, 1], 2)
    return case


POLICY = pytest.mark.parametrize("policy", [POLICIES["amoeba"], IN_TURN], ids=["queue", "held"])


@POLICY
def test_a_full_queue_refuses_with_the_numbers(policy):
    case = case_with(policy, most_queued=2)
    for number in range(6):
        case.arrive(**LONG, rid=f"long-{number}")
    # Two anchors of degree 2, each of which would let two wait.
    assert [rid for rid, _, _ in case.refusals()] == ["long-4", "long-5"]
    _, status, reason = case.refusals()[0]
    assert status == 503
    assert reason.startswith("The request queue is full: 4 requests wait")
    assert "--max-queued-requests 2" in reason


@POLICY
def test_who_waits_too_long_is_answered(policy):
    case = case_with(policy, seconds=5.0)
    case.arrive(**LONG, rid="first")
    case.tick(3.0)
    case.arrive(**LONG, rid="second")
    case.tick(2.0)
    assert case.refusals() == []
    case.tick(0.1)
    [(rid, status, reason)] = case.refusals()
    assert (rid, status) == ("first", 503)
    assert reason.startswith("Request waiting timeout reached: waited 5.1 s")
    assert "SGLANG_REQ_WAITING_TIMEOUT is 5 s" in reason
    case.tick(3.0)
    assert len(case.refusals()) == 2
    case.tick(60.0)
    assert len(case.refusals()) == 2


@POLICY
def test_without_a_limit_of_sglang_s_nobody_waits_for_ever(policy):
    case = case_with(policy)
    case.arrive(**LONG)
    case.tick(599.0)
    assert case.refusals() == []
    case.tick(2.0)
    [(_, status, reason)] = case.refusals()
    assert status == 503
    assert reason.startswith("waited 601 s for an instance of degree 2 for 150 tokens: ")
    assert not reason.endswith(": ")


def test_without_limits_ten_thousand_may_wait():
    assert WaitingLimits(WORKERS).when_full(9999, 9999, 2) is None
    assert "10000 requests" in WaitingLimits(WORKERS).when_full(1, 10_000, 2)
