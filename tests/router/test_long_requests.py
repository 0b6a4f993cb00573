"""Requests longer than one worker's slots: where they go, and what happens while layouts change.

Workers have 100 slots; the anchor of two has 60 more, of four 200.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
from sglang.srt.managers.io_struct import AbortReq

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.messages import AdminReply, AdminRequest, LimitsChanged
from amoeba_sglang.router.limits import RequestLimits
from tests.router.stand_in import done, request, transform, vote

LONG = {"prompt": 120, "output": 30}


def merge(router, ranks=(0, 1)):
    transform(router, list(ranks), len(ranks))
    vote(router, *ranks)
    done(router, *ranks)
    router.front_end.clear()
    router.to_workers.clear()


def homes(router, rid="r"):
    return [
        rank
        for rank, message in router.to_workers
        if hasattr(message, "input_ids") and message.rid == rid
    ]


def refusals(router):
    return [answer for answer in router.front_end if isinstance(answer, AbortReq)]


def test_a_long_request_goes_to_an_anchor_only_and_a_short_one_anywhere(router):
    router.operations.layout = Layout((2, 2, 2, 2))
    for _ in range(8):
        router.place(request(**LONG))
    assert set(homes(router)) == {0, 2}
    router.to_workers.clear()
    for _ in range(8):
        router.place(request(prompt=90, output=8))
    assert set(homes(router)) == {0, 1, 2, 3}


def test_a_long_request_pinned_to_a_rank_without_grown_slots_is_refused_with_its_limit(router):
    merge(router)
    router.place(request(**LONG, rank=0))
    assert homes(router) == [0]
    router.place(request(**LONG, rank=1))
    (answer,) = refusals(router)
    assert answer.finished_reason["status_code"] == 400
    assert "routed_dp_rank 1" in answer.finished_reason["message"]
    assert "at most 93" in answer.finished_reason["message"]


def test_a_long_request_waits_for_a_merge_and_goes_to_the_anchor(router):
    transform(router, [2, 3], 2)
    router.place(request(**LONG))
    router.place(request(prompt=90, output=8, rid="short"))
    assert (homes(router), len(homes(router, "short")), router.front_end) == ([], 1, [])
    vote(router, 2, 3)
    assert homes(router) == []
    done(router, 2, 3)
    assert homes(router) == [2]
    assert router.placement.held == []
    assert refusals(router) == []


def test_a_long_request_that_no_end_of_the_merge_helps_is_refused_after_it(router):
    transform(router, [0, 1], 2)
    router.place(request(prompt=270, output=30))
    assert router.front_end == []
    vote(router, 0, 1)
    done(router, 0, 1)
    (answer,) = refusals(router)
    message = answer.finished_reason["message"]
    assert answer.finished_reason["status_code"] == 400
    assert all(number in message for number in ("270 tokens", "253", "598"))


def test_a_refused_merge_refuses_who_waited_for_it(router):
    transform(router, [0, 1], 2)
    router.place(request(**LONG))
    router.report("vote", 1, 1, accept=False, reason="full")
    (answer,) = refusals(router)
    assert "98" in answer.finished_reason["message"]
    assert homes(router) == []


def test_a_long_request_does_not_enter_an_instance_that_is_being_split(router):
    merge(router)
    transform(router, [0, 1], 1, operation_id="split")
    router.place(request(**LONG))
    assert homes(router) == []
    router.report("vote", 0, 2, accept=False, reason="long requests run")
    assert homes(router) == [0]


def test_another_anchor_takes_a_long_request_at_once(router):
    merge(router)
    transform(router, [2, 3], 2, operation_id="second")
    router.place(request(**LONG))
    assert homes(router) == [0]


def test_an_abort_means_one_id_and_not_all_that_begin_with_it(router):
    transform(router, [0, 1], 2)
    router.place(request(**LONG, rid="job-10"))
    router.init_dispatcher()
    router._request_dispatcher(AbortReq(rid="job-1"))
    assert [held.request.rid for held in router.placement.held] == ["job-10"]


@pytest.mark.parametrize("abort", [{"rid": "mine"}, {"abort_all": True}], ids=str)
def test_a_request_that_is_aborted_while_it_waits_is_answered_and_never_placed(router, abort):
    """Only workers heard of the abort: the request ran after the merge, and blocked the next."""
    transform(router, [0, 1], 2)
    router.place(request(**LONG, rid="mine"))
    router.place(request(**LONG, rid="other"))
    router.init_dispatcher()
    router._request_dispatcher(AbortReq(**abort))
    kept = [] if "abort_all" in abort else ["other"]
    assert [held.request.rid for held in router.placement.held] == kept
    assert [answer.rid for answer in refusals(router)] == ["mine", "other"][: 2 - len(kept)]
    assert len([m for _, m in router.to_workers if isinstance(m, AbortReq)]) == 4
    vote(router, 0, 1)
    done(router, 0, 1)
    assert homes(router, "mine") == []
    assert homes(router, "other") == [0] * len(kept)


def test_the_front_end_hears_the_new_limits_before_the_answer(router):
    transform(router, [0, 1], 2)
    vote(router, 0, 1)
    done(router, 0, 1)
    limits, reply = router.front_end
    assert isinstance(limits, LimitsChanged) and isinstance(reply, AdminReply)
    assert limits.limits == asdict(RequestLimits(98, 258, 598, (98, 258)))


def test_the_state_shows_what_the_layout_holds(router):
    def state():
        router.handle_admin(AdminRequest(rid="w", kind="state"))
        body = router.front_end.pop().body
        return body["max_request_tokens"], [one["max_tokens"] for one in body["instances"]]

    assert state() == (98, [100] * 4)
    merge(router)
    assert state() == (258, [260, 100, 100])
    router.operations.layout = Layout((4,) * 4)
    assert state() == (598, [600])


def test_an_undone_operation_keeps_the_layout_and_is_a_500_with_the_reason(router):
    transform(router, [0, 1], 2)
    router.place(request(**LONG))
    vote(router, 0, 1)
    done(router, 0, error="no more mappings")
    done(router, 1, error="ranks [0] ran into a memory fault")
    limits, refusal, reply = router.front_end
    assert limits.limits["request_tokens"] == 98
    assert "98" in refusal.finished_reason["message"]
    assert reply.status == 500
    assert reply.body["outcome"] == "undone"
    assert "rank 0: no more mappings" in reply.body["error"]
    assert reply.body["instances"] == [[0], [1], [2], [3]]
    assert router.operations.layout.degrees == (1, 1, 1, 1)
    assert router.operations.running is None
    router.place(request(prompt=90, output=8))
    assert len(homes(router)) == 1
