"""Own and grown slots: who gets which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amoeba_sglang.layout.locations import slots_filled, slots_of
from amoeba_sglang.layout.slots import FIRST_LEASED
from tests.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make, request, upstreams


def take(allocator, *wanted, tree=None, last=None):
    """Locations by request, for (request, tokens) pairs; None if memory is short.

    `last`: location of the last token of each, -1 without one.
    """
    reqs, tokens = zip(*wanted, strict=True)
    last = torch.tensor([-1] * len(reqs) if last is None else last)
    found = allocator.alloc_for_requests(tree or Tree(allocator), list(reqs), list(tokens), last)
    return None if found is None else [part.tolist() for part in found.split(list(tokens))]


def test_a_request_is_long_if_upstream_could_not_admit_it_to_the_own_slots():
    allocator = make()
    assert not allocator.is_long(SHORT)
    assert allocator.is_long(LONG)
    assert allocator.is_long(request(SIZE - 1, prompt=SIZE - 1))


def test_short_requests_never_get_a_grown_slot():
    allocator = make()
    (slots,) = take(allocator, (SHORT, SIZE))
    assert sorted(slots) == list(range(1, SIZE + 1))
    assert take(allocator, (SHORT, 1)) is None
    assert allocator.extra_in_use == 0


def test_a_long_request_takes_grown_slots_first_and_then_own_ones():
    allocator = make()
    (slots,) = take(allocator, (LONG, GROWN - 1))
    assert slots == list(range(SIZE + 1, SIZE + GROWN))
    (slots,) = take(allocator, (LONG, 3))
    assert slots == [SIZE + GROWN, 1, 2]
    assert allocator.available_size() == SIZE - 2


def test_every_request_of_a_batch_gets_slots_of_its_class_in_its_place():
    allocator = make()
    first, second, third, fourth = take(allocator, (SHORT, 2), (LONG, 4), (SHORT, 1), (LONG, 4))
    assert first == [1, 2]
    assert second == [11, 12, 13, 14]
    assert third == [3]
    assert fourth == [15, 16, 4, 5]


def test_an_allocation_that_does_not_fit_takes_nothing():
    allocator = make()
    assert take(allocator, (LONG, 5), (SHORT, SIZE + 1)) is None
    assert take(allocator, (LONG, SIZE + GROWN + 1)) is None
    assert allocator.available_size() == SIZE
    assert allocator.extra_in_use == 0
    (slots,) = take(allocator, (LONG, SIZE + GROWN))
    assert sorted(slots) == list(range(1, SIZE + GROWN + 1))


def test_cached_prefixes_are_evicted_for_own_slots_only():
    allocator = make()
    cached = allocator.alloc(SIZE).tolist()
    tree = Tree(allocator, cached)
    take(allocator, (LONG, GROWN), tree=tree)
    assert tree.evictable_size() == SIZE
    take(allocator, (LONG, 2), (SHORT, 1), tree=tree)
    assert tree.evictable_size() == SIZE - 3


@pytest.mark.parametrize("need_sort", [False, True])
def test_freed_slots_return_to_their_class(need_sort):
    allocator = make(need_sort=need_sort)
    (slots,) = take(allocator, (LONG, GROWN + 4))
    allocator.free(torch.tensor(slots[3:8]))
    assert allocator.extra_in_use == 3
    assert allocator.available_size() == SIZE - 2
    allocator.free_group_begin()
    allocator.free(torch.tensor(slots[:3]))
    allocator.free(torch.tensor(slots[8:]))
    assert allocator.extra_in_use == 3
    allocator.free_group_end()
    assert allocator.extra_in_use == 0
    assert allocator.available_size() == SIZE
    assert sorted(allocator.free_extra.tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))


def test_a_flush_restores_both_classes():
    allocator = make()
    take(allocator, (LONG, GROWN + 2), (SHORT, 3))
    allocator.clear()
    assert allocator.extra_in_use == 0
    (slots,) = take(allocator, (LONG, SIZE + GROWN))
    assert sorted(slots) == list(range(1, SIZE + GROWN + 1))


def test_grown_slots_in_use_cannot_be_taken_away():
    allocator = make()
    (slots,) = take(allocator, (LONG, 1))
    for count in (0, 2 * GROWN):
        with pytest.raises(AssertionError, match="1 grown slots are in use"):
            allocator.start_layout(count, 0)
    allocator.free(torch.tensor(slots))
    allocator.start_layout(2, 0)
    assert allocator.free_extra.tolist() == [SIZE + 1, SIZE + 2]
    allocator.start_layout(0, 0)
    assert take(allocator, (LONG, SIZE + 1)) is None


def test_a_row_goes_on_in_its_last_slot():
    allocator = make(page=4)
    short, long = request(4 * (SIZE - 2), prompt=9), request(4 * (SIZE - 2) + 1, prompt=9)
    assert not allocator.is_long(short) and allocator.is_long(long)
    first, second = take(allocator, (short, 6), (long, 9))
    assert first == [*range(4, 10)]
    assert second == [*range(44, 53)]
    first, second = take(allocator, (short, 1), (long, 5), last=[first[-1], second[-1]])
    assert first == [10]
    assert second == [53, 54, 55, 56, 57]
    assert allocator.available_size() == 4 * (SIZE - 2)
    assert allocator.extra_in_use == 4
    (more,) = take(allocator, (short, 3), last=[10])
    assert more == [11, 12, 13]


def test_decoding_long_requests_need_own_slots_only_after_the_grown_ones():
    allocator = make(grown=2)
    allocator.alloc(SIZE - 1)
    tree = Tree(allocator)

    def fits(*requests):
        return allocator.check_decode_capacity(
            num_tokens=len(requests), tree_cache=tree, requests=requests
        )

    assert fits(LONG, LONG, SHORT)
    assert not fits(LONG, SHORT, SHORT)
    assert not fits(LONG, LONG, LONG, SHORT)
    assert fits(LONG, LONG, LONG)
    assert not allocator.check_decode_capacity(num_tokens=2, tree_cache=tree)


def test_only_decoding_requests_whose_last_slot_is_full_need_another():
    allocator = make(grown=1, page=4)
    allocator.alloc(4 * SIZE)
    within, at_end = (request(4 * SIZE) for _ in range(2))
    within.kv.kv_committed_len = 6
    tree = Tree(allocator)
    for requests, tokens in (([within, at_end, within], 4), ([at_end, at_end], 8)):
        fits = allocator.check_decode_capacity(
            num_tokens=tokens, tree_cache=tree, requests=requests
        )
        assert fits == (tokens == 4)


def test_an_output_may_be_as_long_as_own_and_grown_slots_allow():
    clip = {"sliding_window_size": None, "chunk_size": None, "token_capacity": SIZE}
    assert make(grown=0).max_new_tokens_for_memory(3, 99, **clip) == SIZE - 3 - 2
    assert make().max_new_tokens_for_memory(3, 99, **clip) == SIZE + GROWN - 3 - 2
    clip["token_capacity"] = 4 * SIZE
    assert make(page=4).max_new_tokens_for_memory(3, 99, **clip) == 4 * (SIZE + GROWN) - 4 - 5


def ended(tokens=SIZE - 1):
    req = request(tokens)
    req.finished = lambda: True
    return req


def test_the_tree_gets_a_long_request_s_tokens_on_own_slots_when_it_has_ended():
    allocator, req = make(), ended()
    (slots,) = take(allocator, (req, GROWN + 2))
    row = torch.tensor(slots, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == len(row)
    assert sorted(row.tolist()) == list(range(1, GROWN + 3))
    source, target = allocator.moves
    assert source.tolist() == slots[:GROWN]
    assert target.tolist() == row.tolist()[:GROWN]
    # Nobody may use the old slots before all workers have copied them.
    assert allocator.extra_in_use == GROWN
    allocator.finish_moves()
    assert allocator.extra_in_use == 0
    assert allocator.available_size() == SIZE - GROWN - 2


def test_the_tree_gets_full_slots_of_a_long_request_that_has_ended():
    allocator, req = make(page=4), ended(4 * SIZE)
    (locations,) = take(allocator, (req, 4 * 3 + 2))
    row = torch.tensor(locations, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == len(row)
    source, target = allocator.moves
    assert source.tolist() == [SIZE + 1, SIZE + 2, SIZE + 3]
    assert row.tolist() == [4 * slot + n for slot in target.tolist() for n in range(4)] + [56, 57]
    allocator.free_segment(row[12:].long(), start_pos=12)
    allocator.finish_moves()
    assert allocator.extra_in_use == 0
    allocator.alloc(4 * (SIZE - 4))
    (locations,) = take(allocator, (req, 4 * 3 + 2))
    row = torch.tensor(locations, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == 4
    assert row.tolist()[4:] == locations[4:]


def test_what_does_not_fit_into_free_own_slots_stays_out_of_the_tree():
    allocator, req = make(), ended()
    allocator.alloc(SIZE - 3)
    (slots,) = take(allocator, (req, GROWN + 1))
    row = torch.tensor(slots, dtype=torch.int32)
    assert allocator.prepare_checkpoint(req, row) == 2
    assert row.tolist()[2:] == slots[2:]
    assert allocator.available_size() == 0
    allocator.free(row[2:].long())
    allocator.finish_moves()
    assert allocator.extra_in_use == 0


def test_the_tree_gets_nothing_of_a_long_request_that_runs_and_all_of_a_short_one():
    allocator, running = make(), request(SIZE - 1)
    (slots,) = take(allocator, (running, 3))
    assert allocator.prepare_checkpoint(running, torch.tensor(slots)) == 0
    (slots,) = take(allocator, (SHORT, 3))
    assert allocator.prepare_checkpoint(SHORT, torch.tensor(slots)) == 3
    assert not len(allocator.moves[0])


def test_nothing_moves_into_the_tree_while_a_transformation_is_under_way():
    """No worker would copy it before another request could read it."""
    allocator, req = make(), ended()
    allocator.lease(torch.tensor([FIRST_LEASED + 9]))
    (slots,) = take(allocator, (req, GROWN + 2))
    row = torch.tensor([*slots[-1:], *slots[:-1]])
    allocator.close(lambda extra: extra >= FIRST_LEASED)
    assert allocator.prepare_checkpoint(req, row) == 1
    assert not len(allocator.moves[0])


def test_closed_extra_slots_are_withheld_however_they_become_free():
    allocator = make()
    allocator.lease(torch.tensor([FIRST_LEASED + 9]))
    (slots,) = take(allocator, (LONG, 2))
    allocator.close(lambda extra: extra >= FIRST_LEASED)
    assert allocator.free_extra.tolist() == [FIRST_LEASED + 9]
    allocator.free(torch.tensor(slots))
    allocator.lease(torch.tensor([FIRST_LEASED + 11]))
    assert take(allocator, (LONG, 3)) == [[FIRST_LEASED + 9, FIRST_LEASED + 11, 1]]
    allocator.open()
    assert sorted(allocator.free_extra.tolist()) == list(range(SIZE + 1, SIZE + GROWN + 1))


def test_a_flush_forgets_what_was_to_be_copied():
    allocator, req = make(), ended()
    (slots,) = take(allocator, (req, 4))
    allocator.prepare_checkpoint(req, torch.tensor(slots))
    allocator.clear()
    assert not len(allocator.moves[0])
    assert allocator.extra_in_use == 0
    assert allocator.available_size() == SIZE


class AnyHistory(RuleBasedStateMachine):
    """Requests come, grow and go in any order: every slot has exactly one owner.

    `held`: (request, its locations) for each that has some.
    """

    @initialize(grown=st.integers(0, GROWN), need_sort=st.booleans(), page=st.sampled_from([1, 4]))
    def start(self, grown, need_sort, page):
        self.allocator, self.page = make(grown, need_sort, page=page), page
        self.short, self.long = request(page * (SIZE - 2)), request(page * (SIZE - 2) + 1)
        self.tree, self.held, self.deferred = Tree(self.allocator), [], []

    # The scheduler allocates only between free groups.
    @precondition(lambda self: not self.group)
    @rule(tokens=st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=3))
    def arrive(self, tokens):
        rows = [(self.long if long else self.short, []) for long, _ in tokens]
        self._allocate(rows, [count for _, count in tokens])

    @precondition(lambda self: not self.group and self.held)
    @rule(tokens=st.integers(1, 9), data=st.data())
    def go_on(self, tokens, data):
        row = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if not self._allocate([row], [tokens]):
            self.held.append(row)

    def _allocate(self, rows, tokens):
        grown, free = len(self.allocator.free_extra), self.allocator.available_size()
        free = (free + self.tree.evictable_size()) // self.page
        need = 0
        for (req, old), count in zip(rows, tokens, strict=True):
            new = slots_filled(len(old) + count, self.page) - slots_filled(len(old), self.page)
            taken = min(new, grown) if req is self.long else 0
            grown, need = grown - taken, need + new - taken
        wanted = [(req, count) for (req, _), count in zip(rows, tokens, strict=True)]
        last = [old[-1] if old else -1 for _, old in rows]
        found = take(self.allocator, *wanted, tree=self.tree, last=last)
        assert (found is None) == (need > free)
        for (req, old), part in zip(rows, found or (), strict=found is not None):
            self.held.append((req, old + part))
        return found is not None

    @property
    def group(self):
        return self.allocator.free_group is not None

    @precondition(lambda self: self.held)
    @rule(data=st.data(), keep=st.integers(0, 9), cache=st.booleans(), segment=st.booleans())
    def finish(self, data, keep, cache, segment):
        """A request gives up all but its first `keep` slots, or the tree keeps a short one's."""
        req, row = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        keep *= self.page
        given, slots = torch.tensor(row[keep:], dtype=torch.int64), self._slots(row[keep:])
        if cache and req is self.short and not self.group:
            self.tree.slots = torch.cat([self.tree.slots, torch.tensor(slots).long()])
        else:
            if segment:
                self.allocator.free_segment(given, start_pos=keep)
            else:
                self.allocator.free(given)
            self.deferred += slots if self.group else []
        if row[:keep]:
            self.held.append((req, row[:keep]))

    @rule()
    def defer_or_carry_out_frees(self):
        if self.group:
            self.allocator.free_group_end()
            self.deferred = []
        else:
            self.allocator.free_group_begin()

    @rule(grown=st.integers(0, GROWN))
    def flush_and_regrow(self, grown):
        self.allocator.clear()
        self.allocator.start_layout(grown, 0)
        self.tree.slots, self.held, self.deferred = self.tree.slots[:0], [], []

    def _slots(self, row):
        """That the tokens of a row lie in; which must be in order."""
        return slots_of(np.array(row, dtype=np.int64), self.page).tolist()

    @invariant()
    def every_slot_has_one_owner(self):
        allocator = self.allocator
        own = allocator.get_all_free_pages().tolist()
        grown = allocator.free_extra.tolist()
        assert all(slot <= SIZE for slot in own) and all(slot > SIZE for slot in grown)
        held = [slot for _, row in self.held for slot in self._slots(row)]
        owned = [*own, *grown, *held, *self.deferred, *self.tree.slots.tolist()]
        assert sorted(owned) == list(range(1, SIZE + allocator.grown + 1))

    @invariant()
    def short_requests_and_the_tree_hold_no_grown_slot(self):
        kept = [s for req, row in self.held if req is self.short for s in self._slots(row)]
        assert all(slot <= SIZE for slot in [*kept, *self.tree.slots.tolist()])


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestAnyHistory = AnyHistory.TestCase


@pytest.mark.parametrize("page", [1, 4])
def test_without_grown_slots_everything_is_upstreams(page):
    """The same history on both: equal locations, free lists and capacity."""
    ours, theirs = make(grown=0, page=page), upstreams(page)
    ends, locations = torch.tensor([0, 0]), torch.tensor([-1, -1])
    for tokens in ([5, 2], [1, 1], [3, 7]):
        if page == 1:
            tokens = [min(tokens), 1]
        lengths = (ends, ends, ends + torch.tensor(tokens), ends + torch.tensor(tokens))
        mine = ours.alloc_for_requests(Tree(ours), [LONG, SHORT], tokens, locations)
        others = theirs.alloc_extend(*lengths, locations, sum(tokens))
        assert mine.tolist() == others.tolist()
        ends, locations = lengths[2], torch.stack([part[-1] for part in mine.split(tokens)])
    for allocator in (ours, theirs):
        allocator.free(mine[:1])
        allocator.free_group_begin()
        allocator.free(mine[tokens[0] :][-1:])
        allocator.free_group_end()
    assert ours.free_pages.tolist() == theirs.free_pages.tolist()
    free = ours.available_size() // page
    for count in (free, free + 1):
        capacities = [
            allocator.check_decode_capacity(
                num_tokens=count * page, tree_cache=Tree(allocator), requests=[LONG] * count
            )
            for allocator in (ours, theirs)
        ]
        assert capacities[0] == capacities[1] == (count == free)
