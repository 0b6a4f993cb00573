from __future__ import annotations

import pytest
from sglang.srt.managers.io_struct import (
    AbortReq,
    GetWeightsByNameReqInput,
    ShutdownReq,
    UpdateWeightFromDiskReqInput,
)

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.messages import AdminReply, AdminRequest, LimitsChanged, TransformOrder
from tests.router.stand_in import Ended, done, request, transform, vote


def test_requests_go_where_the_policy_says(router):
    for _ in range(5):
        router.place(request())
    assert [rank for rank, _ in router.to_workers] == [0, 1, 2, 3, 0]
    assert [load.queued for load in router.load_book.loads] == [2, 1, 1, 1]


def test_a_pinned_request_goes_to_its_rank(router):
    router.place(request(rank=2))
    assert [rank for rank, _ in router.to_workers] == [2]


@pytest.mark.parametrize("rank", [-1, 4, 99])
def test_a_rank_that_does_not_exist_is_a_400(router, rank):
    router.place(request(rank=rank))
    (answer,) = router.front_end
    assert isinstance(answer, AbortReq)
    assert answer.finished_reason["status_code"] == 400
    assert f"routed_dp_rank {rank}" in answer.finished_reason["message"]
    assert router.maybe_external_dp_rank_routing(request(rank=rank))
    assert len(router.front_end) == 2
    assert router.to_workers == []


def test_a_request_that_nothing_holds_is_a_400_with_the_numbers(router):
    router.place(request(prompt=90, output=9))
    (answer,) = router.front_end
    assert (answer.rid, answer.finished_reason["status_code"]) == ("r", 400)
    assert "99" in answer.finished_reason["message"]
    assert "98" in answer.finished_reason["message"]
    router.place(request(prompt=90, output=None))
    assert len(router.to_workers) == 1


def test_a_transformation_end_to_end(router):
    transform(router, [2, 3], 2)
    assert [(rank, order.phase) for rank, order in router.to_workers] == [
        (2, "prepare"),
        (3, "prepare"),
    ]
    order = router.to_workers[0][1]
    assert isinstance(order, TransformOrder)
    assert (order.ranks, order.before, order.after, order.epoch) == ([2, 3], [1, 1], [2, 2], 1)
    vote(router, 2, 3)
    assert [order.phase for _, order in router.to_workers[2:]] == ["commit", "commit"]
    done(router, 2, 3)
    limits, reply = router.front_end
    assert isinstance(limits, LimitsChanged)
    assert isinstance(reply, AdminReply)
    assert (reply.rid, reply.status) == ("w", 200)
    assert router.operations.layout.degrees == (1, 1, 2, 2)


def test_state_has_the_documented_fields(router):
    router.handle_admin(AdminRequest(rid="w", kind="state"))
    (reply,) = router.front_end
    assert reply.body["EMULATED"] is None and reply.body["throughput"] is None
    assert set(reply.body) == {
        "EMULATED",
        "throughput",
        "workers",
        "degrees",
        "instances",
        "max_request_tokens",
        "operation",
        "history",
    }
    assert reply.body["instances"][1] == {
        "ranks": [1],
        "degree": 1,
        "running": 0,
        "queued": 0,
        "used_tokens": 0,
        "max_tokens": 100,
    }


def test_weights_are_updated_at_degree_one_only(router):
    update = UpdateWeightFromDiskReqInput(model_path="m")
    router.handle_weight_update(update)
    assert [message for _, message in router.to_workers] == [update] * 4
    transform(router, [0, 1], 2)
    router.handle_weight_update(update)
    assert len(router.front_end) == 4
    assert not any(answer.success for answer in router.front_end)
    assert "operation op is running" in router.front_end[0].message
    router.report("vote", 0, 1, accept=False, reason="full")
    router.operations.layout = Layout((2, 2, 1, 1))
    router.front_end.clear()
    router.handle_weight_update(update)
    assert "the degrees are [2, 2, 1, 1]" in router.front_end[0].message


def test_weights_are_read_at_degree_one_only(router):
    """A merged worker answered with its shard."""
    read = GetWeightsByNameReqInput(name="w")
    router.handle_weight_read(read)
    assert [message for _, message in router.to_workers] == [read] * 4
    transform(router, [0, 1], 2)
    router.handle_weight_read(read)
    assert [answer.parameter for answer in router.front_end] == [None] * 4
    assert "can only be read" in router.front_end[0].reason
    assert "operation op is running" in router.front_end[0].reason


def test_a_stuck_operation_ends_the_server(router):
    transform(router, [0, 1], 2)
    vote(router, 0, 1)
    effects = router.operations.tick(float("inf"))
    with pytest.raises(Ended, match="did not finish"):
        router.apply(effects)


def test_after_a_shutdown_the_workers_may_end(router):
    router.handle_shutdown(ShutdownReq())
    assert router.guard.stopping
    assert len(router.to_workers) == 4
