"""A PREPARE takes nothing from requests that live, whatever comes of it."""

import pytest

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from amoeba_sglang.control.shares.refuge import kept_width
from tests.adapters.model.allocators import GROWN, SIZE, request
from tests.adapters.worker.instances import PAGES, long_request
from tests.adapters.worker.serving import CHANGES, Serving, compute_chunk, halfway


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("degree", "first", "after"), CHANGES)
@pytest.mark.parametrize("done", range(1, GROWN))
def test_a_long_prompt_gets_its_next_chunk_whatever_is_prepared(page, degree, first, after, done):
    """All grown slots were withheld at once, and upstream, which must make progress with a prompt
    that it has begun, found none: the server ended."""
    world, req = halfway(degree, first, page, done)
    world.before_step = lambda: compute_chunk(world, req)
    verdict = world.prepare(after)
    assert verdict if kept_width(degree, after, first) == 1 else verdict == ""
    if verdict:
        world.stand_down()
    while len(world.row(req)) < GROWN * page:
        compute_chunk(world, req)
        world.step()
        world.check()
    if verdict:
        assert sorted(world.slots(req).tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))
    else:
        world.step(leaving=True)
        assert all(world.stays(slot, after) for slot in world.joint(world.row(req)))


def test_an_undecided_prepare_changes_no_allocation_and_no_admission():
    notes = {}
    for prepared in (True, False):
        # The peers have nothing to lend, which the anchor has to find out first.
        world, req = halfway(4, 0, 1, 1, peers=SIZE)
        new = long_request(SIZE + GROWN)
        new.kv = None
        noted = notes[prepared] = []

        def note(world=world, req=req, new=new, noted=noted):
            budget = world.allocators[0].create_prefill_budget(world.trees[0])
            for asked in (req, new):
                budget.consider(asked)
                noted.append((budget.remaining_total, budget.remaining_current))
            assert world.grow(req, 1)
            noted.append(world.row(req).tolist())

        world.before_step = note
        if prepared:
            assert "10 own" not in world.prepare(2)
            world.stand_down()
            note()
        while len(noted) < len(notes[True]):
            note()
            world.step()
    assert len(notes[True]) >= 9
    assert notes[True] == notes[False]


def test_no_further_long_request_is_admitted_between_the_decision_and_its_end():
    world = Serving(2)
    new = long_request(SIZE + 1)
    new.kv = None
    short = request(3)
    assert world.prepare(1) == ""
    budget = world.allocators[0].create_prefill_budget(world.trees[0])
    budget.consider(new)
    assert budget.remaining_total == 0
    budget.consider(short)
    assert budget.remaining_total == SIZE
    world.stand_down()
    budget.consider(new)
    assert budget.remaining_total == SIZE + GROWN


def test_slots_of_the_step_that_is_planned_do_not_move():
    """Its batch knows them already: it would write to where the tokens are no more."""
    world = Serving(4)
    req = long_request(SIZE + GROWN)
    assert world.grow(req, 3)
    assert world.prepare(2, headroom=4) == ""
    before = world.joint(world.row(req))
    assert world.grow(req, 1)
    planned = world.joint(world.row(req))[-1]
    world.step(leaving=True)
    after = world.joint(world.row(req))
    assert after[-1] == planned and not set(after[:-1]) & set(before)


@pytest.mark.parametrize("agreed", [False, True])
def test_peers_get_back_what_they_lent_for_an_order_that_is_not_carried_out(agreed):
    world, req = halfway(4, 0, 1, GROWN - 1, peers=0 if agreed else SIZE - 2)
    assert (world.prepare(2) == "") == agreed
    assert len(world.ledgers[1].lent)
    world.stand_down()
    for _ in range(3):
        world.step()
        world.check()
    assert world.slots(req).max() < FIRST_LEASED, "nothing has moved"
    # The request lives and may need more than the one grown slot that is left.
    lacking = SIZE - (GROWN - 1) - 1
    assert sum(len(ledger.lent) for ledger in world.ledgers) == lacking


def test_long_requests_wait_for_a_late_commit_before_they_use_up_what_the_change_needs():
    world, req = halfway(4, 0, 1, GROWN)
    world.begin(2, vote_tokens=2, change_tokens=1)
    ledger = world.ledgers[0]
    while ledger.verdict is None:
        assert world.step()
    assert ledger.verdict == ""
    left = ledger.extra.free_count
    for _ in range(left - 1):
        assert not ledger.runs_short(world.claims(0))
        assert world.grow(req, 1)
    assert not ledger.runs_short(world.claims(0))
    ledger.extra.take(1)
    assert ledger.runs_short(world.claims(0))


def test_from_the_vote_on_long_requests_get_only_slots_that_stay_until_it_is_taken_back():
    world = Serving(2)
    req = long_request(SIZE + GROWN)
    assert world.prepare(1) == ""
    assert world.grow(req, 3)
    assert world.row(req).max() <= SIZE
    world.stand_down()
    assert world.grow(req, GROWN)
    assert not world.ledgers[0].extra.free_count
    world.check()
