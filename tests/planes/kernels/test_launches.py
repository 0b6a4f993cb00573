import numpy as np
import pytest

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.kernels.launches import UnitAddresses, plan_launches
from amoeba_sglang.planes.kv.units import RunMoves
from tests.planes.kernels.blocks import Block, changes, layouts

CHAIN = DegreeChain((1, 2, 4))
MERGE = unit_moves(CHAIN, (1, 1), (2, 2))


def pool(at, rows=9, unit_bytes=(32, 32)):
    """A pool of two layers whose K and V begin at multiples of `at`."""
    return UnitAddresses(np.arange(1, 5).reshape(2, 2) * at, CHAIN.finest, rows, unit_bytes)


def launches(pools, worker, live, layers=(0, 1)):
    slots = [np.array(home, dtype=np.int64) for home in live]
    return list(plan_launches(pools, worker, layers, RunMoves(MERGE, slots, CHAIN.finest, 20)))


def test_a_launch_says_where_runs_are_which_slots_move_and_who_lives():
    pools = [pool(1 << 20), pool(1 << 24)]
    found = [launches(pools, worker, [[1, 2, 5], [2, 8]], layers=[1]) for worker in range(2)]
    # The last two of the four units of home 0 change places with the first two of home 1.
    bases = [(3 << 20) + 64, (4 << 20) + 64, 3 << 24, 4 << 24]
    flat = [launch for of_worker in found for launch in of_worker]
    assert [(one.members, one.tensors, one.slots) for one in flat] == [(2, 2, 2)] * 2
    assert {(one.run_bytes, one.row_bytes) for one in flat} == {(64, 128)}
    first_is_0 = flat[0].table[0] == bases[0]
    expected = bases if first_is_0 else bases[2:] + bases[:2]
    of_0, of_1 = (1, 2) if first_is_0 else (2, 1)
    alive = {}
    for one in flat:
        assert one.table[:4].tolist() == expected
        alive |= zip(*one.table[4:].reshape(2, 2).tolist(), strict=True)
    assert alive == {1: of_0, 2: of_0 | of_1, 5: of_0, 8: of_1}


def test_k_and_v_of_one_size_go_in_one_launch_and_others_in_two():
    live = [[1], [1]]
    for unit_bytes, tensors in [((32, 32), [4]), ((32, 16), [2, 2])]:
        pools = [pool(1 << 20, unit_bytes=unit_bytes), pool(1 << 24, unit_bytes=unit_bytes)]
        found = launches(pools, 0, live) + launches(pools, 1, live)
        assert [launch.tensors for launch in found] == tensors


def test_no_launch_has_more_words_than_32_bits_count():
    """Runs of 2 GiB each: few go together, and all go."""
    pools = [pool(1 << 40, unit_bytes=(1 << 30, 1 << 30)) for _ in range(2)]
    live = [list(range(1, 9))] * 2
    found = [launch for worker in range(2) for launch in launches(pools, worker, live)]
    assert all(launch.slots * launch.run_bytes // 4 < 1 << 31 for launch in found)
    assert sum(launch.slots for launch in found) == 8 and len(found) > 2


def test_a_slot_that_the_smaller_pool_of_two_has_not_is_refused():
    pools = [pool(1 << 20, rows=9), pool(1 << 24, rows=5)]
    assert sum(len(launches(pools, worker, [[4], []])) for worker in range(2)) == 1
    with pytest.raises(AssertionError, match="outside of a pool"):
        [launches(pools, worker, [[5], []]) for worker in range(2)]


@pytest.mark.parametrize(
    ("addresses", "unit_bytes"), [([[32, 40]], (16, 16)), ([[32, 48]], (16, 24))]
)
def test_pools_that_vectors_cannot_address_are_refused(addresses, unit_bytes):
    with pytest.raises(AssertionError):
        UnitAddresses(np.array(addresses, dtype=np.int64), CHAIN.finest, 9, unit_bytes)


def test_the_blocks_of_these_tests_have_every_layout_and_change_some_bytes():
    eight = DegreeChain((1, 2, 4, 8))
    assert [len(list(layouts(eight, workers))) for workers in (2, 4, 8)] == [2, 5, 26]
    assert (len(changes(CHAIN)), len(changes(eight))) == (2 + 12, 2 + 12 + 94)
    assert ((2, 2, 1, 1), (4, 4, 4, 4)) in changes(CHAIN)
    block, live = Block(CHAIN, [3, 4], (16, 32), 2), [np.array([1]), np.array([2])]
    changed = (block.after((1, 1), (2, 2), live, [1]) != block.bytes).sum()
    # Two units of each home, of K and of V, but for bytes that happen to be equal.
    assert 180 < changed <= 2 * 2 * (16 + 32)
