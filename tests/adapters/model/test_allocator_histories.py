"""Own and grown slots through any history of requests; upstream's allocator beside ours."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amoeba_sglang.control.layout.locations import slots_filled, slots_of
from tests.adapters.model.allocators import (
    GROWN,
    LONG,
    SHORT,
    SIZE,
    Tree,
    make,
    regrow,
    request,
    take,
    upstreams,
)


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
        grown, free = self.allocator.ledger.extra.free_count, self.allocator.available_size()
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
        regrow(self.allocator, grown)
        self.tree.slots, self.held, self.deferred = self.tree.slots[:0], [], []

    def _slots(self, row):
        """That the tokens of a row lie in; which must be in order."""
        return slots_of(np.array(row, dtype=np.int64), self.page).tolist()

    @invariant()
    def every_slot_has_one_owner(self):
        allocator = self.allocator
        own = allocator.get_all_free_pages().tolist()
        grown = allocator.ledger.extra.free.tolist()
        assert all(slot <= SIZE for slot in own) and all(slot > SIZE for slot in grown)
        held = [slot for _, row in self.held for slot in self._slots(row)]
        owned = [*own, *grown, *held, *self.deferred, *self.tree.slots.tolist()]
        assert sorted(owned) == list(range(1, SIZE + allocator.ledger.extra.grown + 1))

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
        mine = ours.alloc_for_requests(Tree(ours), [LONG, SHORT], tokens, locations.tolist())
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
