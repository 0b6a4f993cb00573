"""The peer mover against a model of the pools, its workers being threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from tests.control.layout.chains import CHAINS, layouts
from tests.planes.kv.pools import PoolModel, fill, wrong_units

ELEMENTS = 3
"""float32 elements of a unit."""


class ThreadGroup:
    """The part of a TransportGroup that a mover uses, for workers that are threads."""

    def __init__(self, rank, barrier, lag_s=0.0):
        """`lag_s`: how long this worker takes to go on after a barrier."""
        self.rank, self.size = rank, barrier.parties
        self._wait, self._lag_s = barrier.wait, lag_s

    def barrier(self):
        self._wait()
        time.sleep(self._lag_s)


def in_threads(pools, finest, staging, layers, moves, live):
    """Let one thread per pool move; their results."""
    barrier = threading.Barrier(len(pools), timeout=10)
    buffers = [UnitBuffers(list(pool), finest) for pool in pools]

    def work(rank):
        peers = [None if i == rank else peer for i, peer in enumerate(buffers)]
        mover = PeerKVMover(buffers[rank], peers, ThreadGroup(rank, barrier), staging)
        return mover.move(layers, moves, live)

    with ThreadPoolExecutor(len(pools)) as executor:
        return list(executor.map(work, range(len(pools))))


def slots_of(worker_count, rows):
    return st.lists(st.sets(st.integers(1, rows - 1)), min_size=worker_count, max_size=worker_count)


@st.composite
def walks(draw):
    chain = draw(st.sampled_from([chain for chain in CHAINS if chain.finest <= 4]))
    width = draw(st.sampled_from(chain.degrees[1:]))
    path = draw(st.lists(layouts(chain, width), min_size=2, max_size=4))
    live = [draw(slots_of(width, 9)) for _ in path]
    # A token's share of one layer that one worker receives, at most: K and V, all units.
    most = 2 * chain.finest * ELEMENTS * 4
    return chain, path, live, draw(st.integers(most, 12 * most))


@settings(max_examples=60, deadline=None)
@given(walks())
def test_any_walk_over_layouts_keeps_every_live_unit(walk):
    chain, path, lives, staging = walk
    model = PoolModel(chain, layers=2, rows=9, degrees=path[0])
    pools = [torch.empty(2, 2, 9, chain.finest, ELEMENTS) for _ in path[0]]
    for after, live in zip(path, lives, strict=True):
        model.set_live(live)
        for worker, pool in enumerate(pools):
            fill(pool, model.held_by(worker))
        moves = unit_moves(chain, model.degrees, after)
        in_threads(pools, chain.finest, staging, range(2), moves, model.live)
        model.degrees = after
        for worker, pool in enumerate(pools):
            assert wrong_units(pool, model.held_by(worker)) == []


def test_only_the_targets_of_live_units_in_the_given_layers_are_written():
    chain, before, after = DegreeChain((1, 2, 4)), (1, 1, 1, 1), (4, 4, 4, 4)
    model = PoolModel(chain, layers=3, rows=6, degrees=before)
    model.set_live([[1, 4], [], [2], [4]])
    pools = [torch.rand(3, 2, 6, 4, ELEMENTS) for _ in before]
    kept = [pool.clone() for pool in pools]
    moves = unit_moves(chain, before, after)
    received = in_threads(pools, 4, 1 << 12, [0, 2], moves, model.live)
    for worker, pool in enumerate(pools):
        targets = {
            (slot, move.target_place)
            for move in moves
            if move.target == worker
            for slot in model.live[move.home].tolist()
        }
        same = (pool == kept[worker]).all(dim=-1)
        assert same[1].all()
        for layer in (0, 2):
            changed = {tuple(place) for place in (~same[layer, 0]).nonzero().tolist()}
            assert changed == targets
            assert torch.equal(same[layer, 0], same[layer, 1])
        assert received[worker] == len(targets) * 2 * 2 * ELEMENTS * 4


def test_a_round_trip_restores_live_units_bit_for_bit():
    chain, ones = DegreeChain((1, 2, 4)), (1,) * 4
    bits = torch.randint(-(2**31), 2**31, (4, 2, 2, 9, 4, ELEMENTS), dtype=torch.int32)
    pools = list(bits.clone().view(torch.float32))
    live = [np.arange(1, 9), np.array([3]), np.array([], dtype=np.int64), np.array([2, 7])]
    path = [ones, (2, 2, 1, 1), (4,) * 4, (1, 1, 2, 2), ones]
    for before, after in pairwise(path):
        in_threads(pools, 4, 200, range(2), unit_moves(chain, before, after), live)
    for pool, original, slots in zip(pools, bits, live, strict=True):
        assert torch.equal(pool.view(torch.int32)[:, :, slots], original[:, :, slots])
    assert any(
        not torch.equal(pool.view(torch.int32), old) for pool, old in zip(pools, bits, strict=True)
    )


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("degree", [2, 4])
def test_every_head_of_every_token_is_where_the_view_of_the_degree_has_it(page, degree):
    """In pools as the server has them, [slots, heads, page, D]: also after the way back."""
    chain, heads, slots = DegreeChain((1, 2, 4)), 8, 6
    shape = (degree, 1, 2, slots, heads, page, ELEMENTS)
    bits = torch.randint(-(2**31), 2**31, shape, dtype=torch.int32)
    pools = list(bits.clone())
    live = [np.array([1 + home, 5]) for home in range(degree)]
    moves = [unit_moves(chain, *way) for way in pairwise([(1,) * degree, (degree,) * degree] * 2)]
    in_threads(pools, 4, 4096, [0], moves[0], live)
    width = heads // degree
    for holder, pool in enumerate(pools):
        seen = pool.view(2, slots * degree, width, page, ELEMENTS)
        first = chain.shard(degree, holder) * width
        for home, theirs in enumerate(live):
            joint = chain.joint_slots(degree, home, theirs)
            assert torch.equal(seen[:, joint], bits[home, 0, :, theirs, first : first + width])
    in_threads(pools, 4, 4096, [0], moves[1], live)
    for pool, original, mine in zip(pools, bits, live, strict=True):
        assert torch.equal(pool[:, :, mine], original[:, :, mine])


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_worker_is_waited_for_at_both_ends(slow):
    chain, before, after = DegreeChain((1, 2)), (1, 1), (2, 2)
    model = PoolModel(chain, layers=1, rows=4, degrees=before)
    model.set_live([[1, 3], [2, 3]])
    pools = [torch.full((1, 2, 4, 2, ELEMENTS), float("nan")) for _ in before]
    buffers = [UnitBuffers(list(pool), 2) for pool in pools]
    barrier = threading.Barrier(2, timeout=10)
    held = [model.held_by(worker) for worker in range(2)]
    model.degrees = after
    expected = [model.held_by(worker) for worker in range(2)]

    def work(rank):
        lag_s = 0.02 if rank == slow else 0.0
        time.sleep(lag_s)
        fill(pools[rank], held[rank])
        peers = [None if i == rank else peer for i, peer in enumerate(buffers)]
        group = ThreadGroup(rank, barrier, lag_s)
        mover = PeerKVMover(buffers[rank], peers, group, 1 << 12)
        mover.move([0], unit_moves(chain, before, after), model.live)
        return [wrong_units(pool, units) for pool, units in zip(pools, expected, strict=True)]

    with ThreadPoolExecutor(2) as executor:
        assert list(executor.map(work, range(2))) == [[[], []], [[], []]]


def test_staging_that_is_too_small_is_refused_before_anything_moves():
    chain = DegreeChain((1, 2))
    pools = [torch.rand(2, 2, 4, 2, ELEMENTS) for _ in range(2)]
    kept = [pool.clone() for pool in pools]
    moves, live = unit_moves(chain, (1, 1), (2, 2)), [np.array([1]), np.array([1])]
    with pytest.raises(ConfigError, match=r"23 bytes is too small, .* needs 24 bytes"):
        in_threads(pools, 2, 23, range(2), moves, live)
    assert all(map(torch.equal, pools, kept))
    in_threads(pools, 2, 24, range(2), moves, live)
    assert not any(map(torch.equal, pools, kept))


def test_units_larger_than_the_buffers_in_the_cache_move_too():
    """Pages of 128 tokens of a model with many KV heads have such units."""
    chain, live = DegreeChain((1, 2)), [np.array([1, 2]), np.array([2])]
    pools = [torch.rand(1, 2, 3, 2, 40_000) for _ in range(2)]
    kept = [pool.clone() for pool in pools]
    in_threads(pools, 2, 1 << 20, [0], unit_moves(chain, (1, 1), (2, 2)), live)
    assert torch.equal(pools[1][0, :, 1:, 0], kept[0][0, :, 1:, 1])
    assert torch.equal(pools[0][0, :, 2, 1], kept[1][0, :, 2, 0])
