"""SGLang's limits for requests that wait at a worker hold for those that wait in the router."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt.environ import envs
from sglang.srt.managers.io_struct import AbortReq

from amoeba_sglang.router import controller
from amoeba_sglang.router.waiting_limits import WaitingLimits
from tests.router.stand_in import Router, request, transform
from tests.router.test_automatic_layout import Clock

LONG = {"prompt": 120, "output": 30}
WORKERS = 4


@pytest.fixture
def clock(processless):
    return Clock()


def router_with(clock, rules, **limits):
    router = Router("amoeba", rules=rules, clock=clock)
    router.guard = SimpleNamespace(check=lambda: None, stopping=False)
    router.waiting_limits = WaitingLimits(WORKERS, **limits)
    router.placement = router.make_placement()
    if rules:
        rules = controller.POLICIES["amoeba"].layout
        router.placement.follow_rules(rules, router.chain, 1)
    # While it decides, nobody is placed.
    transform(router, [0, 1], 2)
    return router


def refusals(router):
    return [
        (one.rid, one.finished_reason["status_code"], one.finished_reason["message"])
        for one in router.front_end
        if isinstance(one, AbortReq)
    ]


@pytest.mark.parametrize("rules", [True, False], ids=["queue", "held"])
def test_a_full_queue_refuses_with_the_numbers(clock, rules):
    router = router_with(clock, rules, most_queued=2)
    for number in range(6):
        router.place(request(**LONG, rid=f"long-{number}"))
    # Two anchors of degree 2, each of which would let two wait.
    assert [rid for rid, _, _ in refusals(router)] == ["long-4", "long-5"]
    _, status, message = refusals(router)[0]
    assert status == 503
    assert message.startswith("The request queue is full: 4 requests wait")
    assert "--max-queued-requests 2" in message


@pytest.mark.parametrize("rules", [True, False], ids=["queue", "held"])
def test_who_waits_too_long_is_answered(clock, rules):
    router = router_with(clock, rules, seconds=5.0)
    router.place(request(**LONG, rid="first"))
    clock.time = 3.0
    router.place(request(**LONG, rid="second"))
    clock.time = 5.0
    router.on_tick()
    assert refusals(router) == []
    clock.time = 5.1
    router.on_tick()
    [(rid, status, message)] = refusals(router)
    assert (rid, status) == ("first", 503)
    assert message.startswith("Request waiting timeout reached: waited 5.1 s")
    assert "SGLANG_REQ_WAITING_TIMEOUT is 5 s" in message
    clock.time = 8.1
    router.on_tick()
    assert len(refusals(router)) == 2
    assert router.placement.waiting == 0


def test_the_limits_are_sglang_s():
    assert WaitingLimits.of_server(WORKERS, 7) == WaitingLimits(WORKERS, 7, None)
    with envs.SGLANG_REQ_WAITING_TIMEOUT.override(2.5):
        assert WaitingLimits.of_server(WORKERS, None) == WaitingLimits(WORKERS, None, 2.5)
    assert WaitingLimits(WORKERS).when_full(10**6, 2) is None
    assert WaitingLimits(WORKERS).when_late(0.0, 1e9) is None
