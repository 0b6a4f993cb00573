"""Between PREPARE and the vote every token leaves the slots that go away, and none is lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.model.allocators import GROWN, SIZE, request
from tests.adapters.worker.instances import MOST, PAGES, long_request
from tests.adapters.worker.serving import CHANGES, Serving


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(PAGES),
    st.sampled_from(CHANGES),
    st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=7),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 4),
)
def test_after_a_yes_all_tokens_are_where_they_stay(page, change, wanted, peers, cached, headroom):
    degree, first, after = change
    world = Serving(degree, first, page)
    anchor = world.allocators[0]
    world.trees[0].slots = torch.from_numpy(anchor.take_own(cached))
    world.used = lambda place, used=world.used: (
        [*used(place), world.trees[0].slots] if place == 0 else used(place)
    )
    busy = request((SIZE - 2) * page)
    busy.kv.kv_allocated_len = (SIZE - 2 - peers) * page
    world.live[1] = [busy]
    world.waiting[0] = [long_request(MOST * page)]
    for _ in range(3):
        world.step()
    world.waiting[0] = []
    for long, tokens in wanted:
        slots = min(tokens, SIZE - 2)
        req = long_request((SIZE + GROWN + tokens) * page) if long else request(slots * page)
        # The last slot is not always full.
        world.grow(req, slots * page - tokens % page)
    before = {req.rid: world.read(req) for req in world.live[0]}
    verdict = world.prepare(after, headroom)
    assert verdict is not None
    assert {req.rid: world.read(req) for req in world.live[0]} == before
    world.check()
    if verdict:
        world.stand_down()
        assert len(world.ledgers[0].extra.withheld) == 0
        return
    world.step(leaving=True)
    assert {req.rid: world.read(req) for req in world.live[0]} == before
    world.check()
    slots = [slot for req in world.live[0] for slot in world.joint(world.row(req))]
    assert all(world.stays(slot, after) for slot in slots)
    # What comes until the change is over stays, too.
    for req in list(world.live[0]):
        world.grow(req, 1)
        assert all(world.stays(slot, after) for slot in world.joint(world.row(req)))
    world.leave(after)
    extra = world.ledgers[0].extra
    every = {*range(SIZE + 1, SIZE + extra.grown + 1), *extra.leased.tolist()}
    assert every.difference(extra.free.tolist(), extra.withheld.tolist()) == {
        i for req in world.live[0] for i in world.slots(req).tolist() if i > SIZE
    }


def test_prefixes_are_evicted_for_tokens_that_must_stay_and_no_more_of_them():
    world = Serving(4)
    anchor = world.allocators[0]
    world.trees[0].slots = anchor.alloc(SIZE - 1)
    req = long_request(SIZE + GROWN)
    assert world.grow(req, 4)
    world.used = lambda place: [] if place else [world.row(req), world.trees[0].slots]
    assert world.prepare(2, headroom=0) == ""
    world.commit(2)
    assert len(world.trees[0].slots) == SIZE - 1 - 3
    assert world.row(req).max() <= SIZE
    assert world.told == [req.kv.req_pool_idx]


def test_peers_that_stay_lend_what_the_anchor_lacks_and_the_others_do_not():
    world = Serving(4)
    req = long_request(SIZE * 2 + GROWN)
    world.waiting[0] = [req]
    for _ in range(3):
        world.step()
    world.waiting[0] = []
    assert world.grow(req, SIZE + 5)
    assert world.prepare(2, headroom=2) == ""
    world.commit(2)
    assert [len(ledger.lent) > 0 for ledger in world.ledgers] == [
        False,
        True,
        False,
        False,
    ]
    assert world.grow(req, 2), "the tokens that come had been counted"


def test_tokens_computed_while_the_anchor_waits_for_leases_do_not_make_it_refuse():
    """It asked for what it lacked, and lacked as much again when that had come."""
    world = Serving(4)
    req = long_request(SIZE * 2 + GROWN)
    assert world.grow(req, GROWN)
    taken = world.allocators[0].alloc(SIZE)
    world.used = lambda place: [] if place else [world.row(req), taken]
    world.before_step = lambda: world.grow(req, 1)
    assert world.prepare(2, headroom=2) == ""


@pytest.mark.parametrize(("tokens", "refused"), [(2 * SIZE, False), (2 * SIZE + 1, True)])
def test_a_request_that_the_smaller_instance_cannot_hold_is_refused_with_the_numbers(
    tokens, refused
):
    world = Serving(4)
    req = long_request(MOST)
    world.waiting[0] = [req]
    for _ in range(3):
        world.step()
    world.waiting[0] = []
    assert world.grow(req, tokens)
    strays = sum(not world.stays(slot, 2) for slot in world.joint(world.row(req)))
    verdict = world.prepare(2)
    if refused:
        assert f"1 running requests longer than one worker's {SIZE} tokens" in verdict
        assert f"have {strays} tokens on slots that the change takes away" in verdict
        assert f"ranks [0, 1] have {SIZE} tokens of own slots and" in verdict
    else:
        assert verdict == ""


def test_an_aborted_request_is_waited_for_and_not_moved():
    world = Serving(2)
    req = long_request(SIZE + GROWN)
    assert world.grow(req, GROWN)
    world.ending = [req]
    assert world.prepare(1) is None
    assert not world.told
    world.allocators[0].free(world.row(req))
    world.live[0] = []
    assert world.step()
    assert world.ledgers[0].verdict == ""


def test_nothing_is_to_be_done_without_tokens_on_extra_slots():
    world = Serving(2)
    assert world.grow(request(SIZE - 2), 3)
    assert world.prepare(1) == ""
    assert not world.step()
