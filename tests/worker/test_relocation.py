"""Between PREPARE and the vote every token leaves the slots that go away, and none is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.layout.locations import slots_of
from amoeba_sglang.layout.slots import FIRST_LEASED
from amoeba_sglang.plan.relocation import kept_width
from amoeba_sglang.worker.relocation import Relocation
from tests.model.allocators import request
from tests.worker.instances import CHAIN, GROWN, PAGES, SIZE, Instance, long_request

MOST = SIZE * 4 + GROWN


class Serving(Instance):
    """An instance whose requests hold tokens: `memory` by joint location."""

    def __init__(self, degree, first=0, page=1):
        super().__init__(degree, first, page)
        self.table = torch.zeros((8, MOST * page), dtype=torch.int32)
        self.memory, self.told, self.before_step = {}, [], lambda: None
        self.next_token = 1

    def grow(self, req, tokens):
        """The anchor computes so many tokens of a request, if it has slots."""
        start = req.kv.kv_allocated_len
        last = self.row(req)[-1:] if start else torch.tensor([-1])
        slots = self.allocators[0].alloc_for_requests(self.trees[0], [req], [tokens], last)
        if slots is None:
            return False
        if req not in self.live[0]:
            req.kv.req_pool_idx = len(self.live[0])
            self.live[0].append(req)
        self.table[req.kv.req_pool_idx, start : start + tokens] = slots.int()
        req.kv.kv_allocated_len += tokens
        for slot in self.joint(slots):
            self.memory[slot] = self.next_token
            self.next_token += 1
        return True

    def row(self, req):
        return self.table[req.kv.req_pool_idx, : req.kv.kv_allocated_len].long()

    def read(self, req):
        return [self.memory[slot] for slot in self.joint(self.row(req))]

    def slots(self, req):
        return torch.from_numpy(slots_of(self.row(req).numpy(), self.page))

    def joint(self, locations):
        """Joint locations of some of the anchor's."""
        slots, offsets = locations // self.page, locations % self.page
        return (self.joint_slots(slots) * self.page + offsets).tolist()

    def joint_slots(self, ids):
        slots = CHAIN.joint_slots_of_ids(self.degree, self.first, np.asarray(ids), SIZE)
        return torch.from_numpy(slots)

    def used(self, place):
        return [] if place else [self.slots(req) for req in self.live[0]]

    def copy(self, anchor):
        source, target = (
            self.joint_slots(ids).tolist() for ids in (anchor.moved_from, anchor.moved_to)
        )
        assert not set(source) & set(target)
        for old, new in zip(source, target, strict=True):
            for offset in range(self.page):
                token = self.memory.pop(old * self.page + offset, None)
                self.memory[new * self.page + offset] = token
        super().copy(anchor)

    def prepare(self, after, headroom=0):
        """PREPARE at the anchor, then steps until it can vote: the verdict."""
        width = kept_width(self.degree, after, self.first)
        relocation = Relocation(
            self.allocators[0],
            self.trees[0],
            CHAIN,
            range(self.first, self.first + width),
            self.table,
            self.told.append,
            self.live[0],
            0,
            headroom,
        )
        self.leases[0].relocation = relocation
        for _ in range(12):
            if relocation.verdict is not None:
                return relocation.verdict
            self.before_step()
            assert self.step(), "peers must not fall asleep before the vote"
            self.check()
        return None

    def leave(self, after):
        for lease, allocator in zip(self.leases, self.allocators, strict=True):
            lease.leave(after)
            allocator.start_layout(0, 0)

    def stays(self, location, after):
        """Whether a joint location is of a worker that stays with the anchor."""
        slot = location // self.page
        if slot >= self.degree * (SIZE + 1):
            return False
        home, _ = CHAIN.home(self.degree, slot)
        return home < kept_width(self.degree, after, self.first)


CHANGES = [(2, 0, 1), (2, 0, 4), (2, 2, 4), (4, 0, 2), (4, 0, 1)]


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
    world.trees[0].slots = anchor.take_own(cached)
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
        world.leases[0].relocation = None
        anchor.open()
        assert len(anchor.withheld) == 0
        return
    slots = [slot for req in world.live[0] for slot in world.joint(world.row(req))]
    assert all(world.stays(slot, after) for slot in slots)
    # What comes until the change is over stays, too.
    for req in list(world.live[0]):
        world.grow(req, 1)
        assert all(world.stays(slot, after) for slot in world.joint(world.row(req)))
    world.leave(after)
    held = set(anchor.held_extra.tolist())
    assert held == {i for req in world.live[0] for i in world.slots(req).tolist() if i > SIZE}


def test_prefixes_are_evicted_for_tokens_that_must_stay_and_no_more_of_them():
    world = Serving(4)
    anchor = world.allocators[0]
    world.trees[0].slots = anchor.alloc(SIZE - 1)
    req = long_request(SIZE + GROWN)
    assert world.grow(req, 4)
    world.used = lambda place: [] if place else [world.row(req), world.trees[0].slots]
    assert world.prepare(2, headroom=0) == ""
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
    world.leave(2)
    assert [len(allocator.lent) > 0 for allocator in world.allocators] == [
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
        assert f"1 running requests longer than one worker's {SIZE} slots" in verdict
        assert f"have {strays} tokens on slots that the change takes away" in verdict
        assert f"workers [0, 1] have {SIZE} own slots and" in verdict
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
    assert world.leases[0].relocation.verdict == ""


def test_nothing_is_to_be_done_without_tokens_on_extra_slots():
    world = Serving(2)
    assert world.grow(request(SIZE - 2), 3)
    assert world.prepare(1) == ""
    assert not world.step()


def fill(world, place, slots):
    """Give so many own slots of a worker to somebody who keeps them."""
    page = world.page
    taken = torch.from_numpy(slots_of(world.allocators[place].alloc(slots * page).numpy(), page))
    world.used = lambda at, used=world.used: [*used(at), *([taken] if at == place else [])]


def halfway(degree, first, page, done, peers=0):
    """An anchor that has `done` slots of a prompt that fills the grown ones, its own being taken,
    as are so many of each of its peers'."""
    world = Serving(degree, first, page)
    fill(world, 0, SIZE)
    for place in range(1, degree):
        fill(world, place, peers)
    req = request(SIZE * page, GROWN * page)
    assert world.grow(req, done * page)
    return world, req


def compute_chunk(world, req):
    """The next chunk of a prompt, of as many tokens as upstream's PrefillAdder would take."""
    left = len(req.origin_input_ids) - len(world.row(req))
    if left:
        budget = world.allocators[0].create_prefill_budget(world.trees[0])
        budget.consider(req)
        assert world.grow(req, min(left, budget.available_chunk_tokens(world.page)))


def stand_down(world):
    world.leases[0].relocation = None
    world.allocators[0].open()


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
        stand_down(world)
    while len(world.row(req)) < GROWN * page:
        compute_chunk(world, req)
        world.step()
        world.check()
    if verdict:
        assert sorted(world.slots(req).tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))
    else:
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
            stand_down(world)
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
    stand_down(world)
    budget.consider(new)
    assert budget.remaining_total == SIZE + GROWN


def test_slots_of_the_step_that_is_planned_do_not_move():
    """Its batch knows them already: it would write to where the tokens are no more."""
    world = Serving(4)
    req = long_request(SIZE + GROWN)
    assert world.grow(req, 3)
    planned, moved = [], []

    def plan():
        assert world.grow(req, 1)
        planned.append(world.joint(world.row(req))[-1])

    def copy(anchor, copy=world.copy):
        slots = world.joint_slots(anchor.moved_from).tolist()
        assert planned[-1] not in slots
        moved.extend(slots)
        copy(anchor)

    world.before_step, world.copy = plan, copy
    assert world.prepare(2, headroom=4) == ""
    assert len(moved) == len(planned) + 3 - 1, "all but the one planned last"


@pytest.mark.parametrize("agreed", [False, True])
def test_peers_get_back_what_they_lent_for_an_order_that_is_not_carried_out(agreed):
    world, req = halfway(4, 0, 1, GROWN - 1, peers=0 if agreed else SIZE - 2)
    assert (world.prepare(2) == "") == agreed
    assert len(world.allocators[1].lent)
    stand_down(world)
    world.step()
    world.check()
    used = int((world.slots(req) >= FIRST_LEASED).sum())
    assert used == (GROWN - 1 if agreed else 0)
    assert len(world.allocators[1].lent) == used


def test_long_requests_wait_for_a_late_commit_before_they_use_up_what_the_change_needs():
    world, req = halfway(4, 0, 1, GROWN)
    world.leases[0].relocation = relocation = Relocation(
        world.allocators[0], world.trees[0], CHAIN, range(2), world.table, world.told.append,
        world.live[0], vote_tokens=2, change_tokens=1,
    )  # fmt: skip
    while relocation.verdict is None:
        assert world.step()
    assert relocation.verdict == ""
    left = len(world.allocators[0].free_extra)
    for _ in range(left - 1):
        assert not relocation.runs_short(world.live[0])
        assert world.grow(req, 1)
    assert not relocation.runs_short(world.live[0])
    world.allocators[0].take_extra(1)
    assert relocation.runs_short(world.live[0])


def test_from_prepare_on_long_requests_get_only_slots_that_stay_until_it_is_taken_back():
    world = Serving(2)
    anchor = world.allocators[0]
    req = long_request(SIZE + GROWN)
    assert world.prepare(1) == ""
    assert world.grow(req, 3)
    assert world.row(req).max() <= SIZE
    world.leases[0].relocation = None
    anchor.open()
    assert world.grow(req, GROWN)
    assert not len(anchor.free_extra)
    world.check()
