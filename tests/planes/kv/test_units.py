import gc
import weakref

import numpy as np
import pytest
import torch

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.kv.units import RunMoves, UnitBuffers

CHAIN = DegreeChain((1, 2, 4))
MERGE = unit_moves(CHAIN, (1, 1), (2, 2))


def test_runs_are_views_of_the_pool():
    pool = torch.arange(2 * 5 * 4 * 3, dtype=torch.float32).view(2, 5, 4, 3)
    key, value = UnitBuffers([pool], finest=4).runs(0, 2)
    assert key.shape == value.shape == (10,)
    assert key.dtype.itemsize == 2 * 3 * 4
    value[3] = key[2]
    assert pool[1, 1, 2:].tolist() == pool[0, 1, :2].tolist()


def test_k_and_v_may_differ_in_size():
    buffers = UnitBuffers([(torch.zeros(5, 4, 6), torch.zeros(5, 4, 2))], finest=2)
    assert buffers.unit_bytes == (48, 16)


@pytest.mark.parametrize("live", [[[3, 2], []], [[2, 2], []], [[-1], []], [[], [9]]])
def test_live_slots_that_cannot_be_are_refused(live):
    with pytest.raises(AssertionError, match="live slots"):
        RunMoves(MERGE, [np.array(slots, dtype=np.int64) for slots in live], 4, rows=9)


def test_chunks_cover_live_super_slots_of_both_sides_once():
    live = [np.array([1, 2, 5, 8]), np.array([2, 3])]
    runs = RunMoves(MERGE, live, 4, rows=9)
    assert runs.width == 2
    assert runs.super_slots == 5
    chunks = list(runs.index_chunks(2))
    found = [
        {(index.source, index.target): index.target_runs.tolist() for index in chunk}
        for chunk in chunks
    ]
    # Units 2, 3 of home 0 go to the first half row of worker 1; 0, 1 of home 1 to the second of 0.
    assert found == [
        {(0, 1): [2 * 1, 2 * 2], (1, 0): [2 * 2 + 1]},
        {(0, 1): [2 * 5], (1, 0): [2 * 3 + 1]},
        {(0, 1): [2 * 8]},
    ]


def test_super_slots_of_homes_that_do_not_move_make_no_chunks():
    moves = unit_moves(CHAIN, (2, 2, 1, 1), (2, 2, 2, 2))
    live = [np.arange(1, 9), np.arange(1, 9), np.array([4]), np.array([], dtype=np.int64)]
    assert len(list(RunMoves(moves, live, 4, rows=9).index_chunks(1))) == 1


def test_a_pool_that_nobody_uses_is_freed_at_once():
    """Second pools of "Basic" stayed until the next collection: 5 GiB in a benchmark."""
    pool = UnitBuffers([(torch.zeros(3, 8), torch.zeros(3, 8))], 2)
    pool.runs(0, 1)
    gone = weakref.ref(pool)
    gc.disable()
    try:
        del pool
        assert gone() is None
    finally:
        gc.enable()
