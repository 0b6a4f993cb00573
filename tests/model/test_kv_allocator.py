"""Own and grown slots: who gets which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator

from amoeba_sglang.layout.slots import FIRST_LEASED
from tests.model.allocators import GROWN, LONG, SHORT, SIZE, Tree, make, request


def take(allocator, *wanted, tree=None):
    """Slots by request, for (request, tokens) pairs; None if memory is short."""
    reqs, tokens = zip(*wanted, strict=True)
    slots = allocator.alloc_for_requests(tree or Tree(allocator), list(reqs), list(tokens))
    return None if slots is None else [part.tolist() for part in slots.split(list(tokens))]


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


def test_an_output_may_be_as_long_as_own_and_grown_slots_allow():
    clip = {"sliding_window_size": None, "chunk_size": None, "token_capacity": SIZE}
    assert make(grown=0).max_new_tokens_for_memory(3, 99, **clip) == SIZE - 3 - 2
    assert make().max_new_tokens_for_memory(3, 99, **clip) == SIZE + GROWN - 3 - 2


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
    """Requests come, grow and go in any order: every slot has exactly one owner."""

    @initialize(grown=st.integers(0, GROWN), need_sort=st.booleans())
    def start(self, grown, need_sort):
        self.allocator = make(grown, need_sort)
        self.tree, self.held, self.deferred = Tree(self.allocator), [], []

    # The scheduler allocates only between free groups.
    @precondition(lambda self: not self.group)
    @rule(tokens=st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=3))
    def allocate(self, tokens):
        wanted = [(LONG if long else SHORT, count) for long, count in tokens]
        grown, free = len(self.allocator.free_extra), self.allocator.available_size()
        free += self.tree.evictable_size()
        need = 0
        for req, count in wanted:
            taken = min(count, grown) if req is LONG else 0
            grown, need = grown - taken, need + count - taken
        slots = take(self.allocator, *wanted, tree=self.tree)
        assert (slots is None) == (need > free)
        for (req, _), part in zip(wanted, slots or (), strict=slots is not None):
            self.held.append((req, part))

    @property
    def group(self):
        return self.allocator.free_group is not None

    @precondition(lambda self: self.held)
    @rule(data=st.data(), keep=st.integers(0, 9), cache=st.booleans())
    def finish(self, data, keep, cache):
        """A request gives up all but its first `keep` slots, or the tree keeps a short one's."""
        req, slots = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if cache and req is SHORT and not self.group:
            self.tree.slots = torch.cat([self.tree.slots, torch.tensor(slots[keep:]).long()])
        else:
            self.allocator.free(torch.tensor(slots[keep:], dtype=torch.int64))
            self.deferred += slots[keep:] if self.group else []
        if slots[:keep]:
            self.held.append((req, slots[:keep]))

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

    @invariant()
    def every_slot_has_one_owner(self):
        allocator = self.allocator
        own = torch.cat([allocator.free_pages, allocator.release_pages]).tolist()
        grown = allocator.free_extra.tolist()
        assert all(slot <= SIZE for slot in own) and all(slot > SIZE for slot in grown)
        held = [slot for _, slots in self.held for slot in slots]
        owned = [*own, *grown, *held, *self.deferred, *self.tree.slots.tolist()]
        assert sorted(owned) == list(range(1, SIZE + allocator.grown + 1))

    @invariant()
    def short_requests_and_the_tree_hold_no_grown_slot(self):
        kept = [slot for req, slots in self.held if req is SHORT for slot in slots]
        assert all(slot <= SIZE for slot in [*kept, *self.tree.slots.tolist()])


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestAnyHistory = AnyHistory.TestCase


def test_without_grown_slots_everything_is_upstreams():
    """The same history on both: equal slots, free lists and capacity."""
    ours, theirs = make(grown=0), make(kind=TokenToKVPoolAllocator)
    for allocator in (ours, theirs):
        slots = allocator.alloc_for_requests(Tree(allocator), [LONG, SHORT], [4, 3])
        allocator.free(slots[1:5])
        allocator.free_group_begin()
        allocator.free(slots[:1])
        allocator.free_group_end()
        allocator.last = allocator.alloc_for_requests(Tree(allocator), [SHORT], [5])
    assert ours.last.tolist() == theirs.last.tolist()
    assert ours.free_pages.tolist() == theirs.free_pages.tolist()
    for requests in ([LONG] * 3, [LONG] * 4):
        capacities = [
            allocator.check_decode_capacity(
                num_tokens=len(requests), tree_cache=Tree(allocator), requests=requests
            )
            for allocator in (ours, theirs)
        ]
        assert capacities[0] == capacities[1] == (len(requests) <= 3)
