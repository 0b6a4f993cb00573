import pytest
import torch

from amoeba_sglang.adapters.worker.slots import free_slots, live_slots
from tests.adapters.model.allocators import SIZE, make


def test_live_and_free_slots_are_all_own_ones_but_the_padding():
    allocator = make(need_sort=True)
    taken = torch.from_numpy(allocator.take_own(4))
    allocator.free(taken[1:2])
    live, free = live_slots(allocator), free_slots(allocator)
    assert live.tolist() == sorted(taken[[0, 2, 3]].tolist())
    assert sorted([*live.tolist(), *free.tolist()]) == list(range(1, SIZE + 1))
    # Grown ones never move.
    allocator.ledger.extra.take(2)
    assert live_slots(allocator).tolist() == live.tolist()


def test_nobody_counts_while_frees_are_deferred():
    allocator = make()
    allocator.free_group_begin()
    with pytest.raises(AssertionError, match="not a safe point"):
        live_slots(allocator)
