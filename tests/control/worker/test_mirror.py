"""The mirror equals the owner's rows after any history of appends, rewrites and reuse."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.adapters.model.union_batch import build_union
from amoeba_sglang.control.layout.locations import (
    missing_slots,
    next_locations,
    slots_filled,
    slots_of,
)
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowLedger, RowMirror
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.step_executor import StepExecutor


class Owner:
    """A worker's request table as upstream changes it, with its ledger and one peer's mirror.

    What upstream changes it changes in whole slots of `page` tokens.
    """

    def __init__(self, page=1):
        self.page = page
        self.rows, self.generation, self.protected = {}, {}, {}
        self.free = set(range(8))
        self.ledger, self.mirror = RowLedger(), RowMirror()
        self.next_slot = 1

    def new_locations(self, end, count):
        slots = missing_slots(end, count, self.page)
        self.next_slot += slots
        new = np.arange(self.next_slot - slots, self.next_slot)
        return next_locations(end, count, new, self.page)

    def admit(self, row, tokens):
        self.free.discard(row)
        self.generation[row] = self.generation.get(row, 0) + 1
        self.protected[row] = 0
        self.rows[row] = np.empty(0, np.int64)
        self.step(row, tokens)

    def step(self, row, tokens):
        start = len(self.rows[row])
        last = int(self.rows[row][-1]) + 1 if start else 0
        self.rows[row] = np.concatenate([self.rows[row], self.new_locations(last, tokens)])
        end = len(self.rows[row])
        known = self.ledger.advance(row, self.generation[row], self.protected[row], start, end)
        slots = slots_of(self.rows[row], self.page)
        first = known // self.page
        self.mirror.apply(row, first, slots[first:])
        np.testing.assert_array_equal(self.mirror.slots(row, len(slots)), slots)

    def deduplicate(self, row):
        """The tree takes the row's full slots over and repoints all but what it owned before."""
        old, end = self.protected[row], len(self.rows[row]) // self.page * self.page
        new = self.new_locations(0, end - old)
        self.rows[row] = np.concatenate([self.rows[row][:old], new, self.rows[row][end:]])
        self.protected[row] = end

    def relocate(self, row):
        """Its tokens move to other slots."""
        self.rows[row] = self.new_locations(0, len(self.rows[row]))
        self.ledger.forget(row)

    def release(self, row):
        del self.rows[row]
        self.free.add(row)

    def collect(self):
        self.mirror.forget(self.ledger.forget_dead(8 - len(self.free), self.free))


def slots_held(mirror):
    """Capacity of all its buffers."""
    return sum(len(buffer) for buffer in mirror._rows.values())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1, 16]),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(1, 300))),
)
def test_mirror_follows_every_history(page, history):
    owner = Owner(page)
    for row, action, tokens in history:
        if row in owner.free:
            owner.admit(row, tokens)
        elif action == 0:
            owner.release(row)
        elif action == 1:
            owner.deduplicate(row)
        elif action == 2:
            owner.relocate(row)
        else:
            owner.step(row, tokens)
        owner.collect()
        live = sum(slots_filled(len(row), page) for row in owner.rows.values())
        assert slots_held(owner.mirror) <= live * 5 // 4 + 64 * 8
        assert len(owner.ledger) <= len(owner.rows)


def test_a_rewritten_prefix_is_sent_again_from_the_old_protected_length():
    owner = Owner()
    owner.admit(3, 10)
    owner.deduplicate(3)
    known = owner.ledger.advance(3, owner.generation[3], owner.protected[3], 10, 11)
    assert known == 0


def test_a_dead_row_is_forgotten_although_another_was_relocated():
    """A relocated row left the ledger, so a dead one went unseen until the next step."""
    ledger = RowLedger()
    for row in (1, 2):
        ledger.advance(row, 1, 0, 0, 100)
    ledger.forget(1)
    assert ledger.forget_dead(1, {2}) == (2,)


def test_a_reused_row_gives_back_the_memory_of_a_long_one():
    """The buffer of a long request stayed with its row number for good."""
    mirror = RowMirror()
    mirror.apply(1, 0, np.arange(100_000))
    mirror.apply(1, 0, np.arange(10))
    assert slots_held(mirror) < 100


def test_an_append_sends_only_the_new_position():
    ledger = RowLedger()
    assert ledger.advance(1, 1, 0, 0, 100) == 0
    assert ledger.advance(1, 1, 0, 100, 101) == 100


def test_a_reused_row_number_is_sent_whole():
    ledger = RowLedger()
    ledger.advance(1, 1, 0, 0, 100)
    assert ledger.advance(1, 2, 0, 5, 6) == 0


class Rows(StepExecutor):
    """Computes nothing."""

    def __init__(self):
        super().__init__([], 0)
        self.mirrors = [RowMirror(), RowMirror()]

    def forward(self, own):
        """Nothing."""

    def follow(self):
        """Nothing."""

    def synchronize(self):
        """Nothing."""


def test_a_step_that_is_not_computed_together_is_heard_all_the_same():
    """The last layers of a split had moved, steps ran alone, and then the KV could not grow: on
    the way back peers computed with slots that they had never been told."""

    def told(row, known, slots):
        slots = np.array(slots, dtype=np.int64)
        rows = (Row(row, known + len(slots), len(slots), known, slots),)
        return StepRecord(epoch=1, step=0, first_rank=0, boundary=8, has_work=True, rows=rows)

    executor, nothing = Rows(), StepRecord(1, 0, 0, 8, False)
    executor.hear([nothing, told(3, 0, [11, 12])])
    executor.hear([nothing, told(3, 2, [7])])
    executor.hear([nothing, told(3, 3, [9])])
    chain = DegreeChain((1, 2))
    union = build_union(
        [nothing, told(3, 3, [9])], executor.mirrors, chain, 2, size=64, page=1, device="cpu"
    )
    assert union.slots[0].tolist() == chain.joint_slots(2, 1, np.array([11, 12, 7, 9])).tolist()
