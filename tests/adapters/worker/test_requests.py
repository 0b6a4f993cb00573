"""Every request that a worker has is found, wherever upstream keeps it."""

from types import SimpleNamespace

from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.worker.requests import Requests, claims_of
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.control.router.limits import Capacity
from tests.adapters.model.allocators import GROWN, SIZE, make, request
from tests.adapters.worker.instances import long_request


def batch(*reqs):
    return SimpleNamespace(reqs=list(reqs))


def scheduler(**places):
    known = {
        "waiting_queue": [],
        "running_batch": batch(),
        "last_batch": None,
        "result_queue": [],
        "chunked_req": None,
        "_pending_chunked_abort_req": None,
        "compiling": [],
        **places,
    }
    known["grammar_manager"] = SimpleNamespace(grammar_queue=known.pop("compiling"))
    return SimpleNamespace(**known)


def test_live_ones_are_found_in_every_place_and_once():
    running, planned, launched, last, chunked, aborted, waits, compiles = (
        request(5) for _ in range(8)
    )
    for req in (waits, compiles):
        req.kv.holds_kv = False
    found = Requests(
        scheduler(
            running_batch=batch(running, planned),
            result_queue=[(batch(launched, running), None)],
            last_batch=batch(last),
            chunked_req=chunked,
            _pending_chunked_abort_req=aborted,
            waiting_queue=[waits],
            compiling=[compiles],
        ),
        [batch(planned), None],
    )
    expected = {id(req) for req in (running, planned, launched, last, chunked, aborted)}
    assert {id(req) for req in found.live} == expected and len(found.live) == len(expected)
    assert found.waiting == [waits, compiles]
    assert len(found.all) == 8
    assert found.is_ending(aborted) and not found.is_ending(chunked)


def test_their_claims_are_in_tokens_and_in_the_order_of_admission():
    allocator = make(page=4)
    live = request(4 * SIZE, prompt=9)
    live.kv.kv_allocated_len = 6
    waits, compiles = long_request(4 * SIZE), long_request(5)
    here = scheduler(running_batch=batch(live), waiting_queue=[waits], compiling=[compiles])
    rows = ReqToTokenPool(1, 99, "cpu", enable_memory_saver=False)
    claims = claims_of(Requests(here), allocator, rows, print)
    [claim] = claims.live
    assert (claim.held, claim.fill, claim.promised, claim.long) == (6, 9, 4 * SIZE, True)
    assert claim.rest(4) == SIZE - 2 and claim.coming(2, 4) == 1
    assert [claim.key for claim in claims.waiting] == [waits.rid, compiles.rid]
    assert claims.first(long=False).key == compiles.rid


def test_a_long_request_whose_grammar_compiles_is_heard_at_a_vote():
    """It was not: after the split it waited for ever, and all behind it."""
    req = long_request(SIZE + GROWN)
    capacity = Capacity(SIZE, 1000, {1: 0, 2: GROWN}, 1)
    here = scheduler(compiling=[req])
    here.runtime = SimpleNamespace(rank=0, refusal=lambda order: None)
    here.capacity, here.token_to_kv_pool_allocator = capacity, make()
    order = TransformOrder(
        phase="prepare", operation_id="x", epoch=1, ranks=[0, 1], before=[2, 2], after=[1, 1]
    )
    refusal = Turn(here).refusal(order)
    assert req.rid in refusal and f"needs up to {SIZE + GROWN} tokens" in refusal
    req.to_finish = "aborted"
    assert Turn(here).refusal(order) is None
