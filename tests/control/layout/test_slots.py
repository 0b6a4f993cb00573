from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from tests.control.layout.chains import CHAINS, layouts


def test_the_chain_of_the_design_has_its_formulas():
    chain = DegreeChain((1, 2, 4))
    assert [chain.shard(1, i) for i in range(4)] == [0, 0, 0, 0]
    assert [chain.shard(2, i) for i in range(4)] == [i % 2 for i in range(4)]
    assert [chain.shard(4, i) for i in range(4)] == [2 * (i % 2) + i // 2 for i in range(4)]


def test_a_step_of_the_chain_that_skips_a_degree_needs_no_reversal():
    assert [DegreeChain((1, 4)).shard(4, i) for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_index_inverts_shard(chain):
    for degree in chain.degrees:
        shards = [chain.shard(degree, i) for i in range(degree)]
        assert sorted(shards) == list(range(degree))
        assert [chain.index(degree, shard) for shard in shards] == list(range(degree))


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_shards_nest(chain):
    for low, high in pairwise(chain.degrees):
        for i in range(chain.finest):
            assert chain.shard(high, i) // (high // low) == chain.shard(low, i)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_joint_slots_nest(chain):
    for low, high in pairwise(chain.degrees):
        for i in range(high):
            for slot in (0, 1, 17):
                expected = high // low * chain.joint_slots(low, i, slot) + i // low
                assert chain.joint_slots(high, i, slot) == expected


@settings(deadline=None)
@given(st.sampled_from(CHAINS), st.integers(1, 9), st.data())
def test_joint_slots_are_a_bijection_with_padding_first(chain, size, data):
    degree = data.draw(st.sampled_from(chain.degrees))
    homes = [(i, slot) for slot in range(size + 1) for i in range(degree)]
    slots = [chain.joint_slots(degree, i, slot) for i, slot in homes]
    assert sorted(slots) == list(range(degree * (size + 1)))
    assert [(chain.index(degree, slot % degree), slot // degree) for slot in slots] == homes
    padding = {chain.joint_slots(degree, i, 0) for i in range(degree)}
    assert padding == set(range(degree))


@settings(deadline=None)
@given(st.sampled_from(CHAINS), st.lists(st.integers(0, 2**40), max_size=20), st.data())
def test_vectors_of_joint_slots_match_single_ones(chain, slots, data):
    degree = data.draw(st.sampled_from(chain.degrees))
    worker = data.draw(st.integers(0, 2 * chain.finest))
    vector = chain.joint_slots(degree, worker, np.array(slots, dtype=np.int64))
    assert vector.dtype == np.int64
    assert vector.tolist() == [chain.joint_slots(degree, worker, slot) for slot in slots]


@settings(deadline=None)
@given(st.sampled_from(CHAINS), st.integers(1, 9), st.integers(0, 5), st.data())
def test_own_and_grown_slots_are_a_bijection_onto_the_rows_of_the_grown_pool(
    chain, size, growth, data
):
    """`growth`: rows that every worker's pool gains; the anchor has the joint slots of all."""
    degree = data.draw(st.sampled_from(chain.degrees))
    local = [np.arange(1, size + 1)] * degree
    local[0] = np.arange(1, size + 1 + degree * growth)
    joint = [chain.joint_slots_of_ids(degree, i, slots, size) for i, slots in enumerate(local)]
    assert sorted(np.concatenate(joint)) == list(range(degree, degree * (size + 1 + growth)))
    # The views of the own slots do not change: grown slots come behind all of them, in order.
    assert all(slots[slots < degree * (size + 1)].size == size for slots in joint)
    grown = joint[0][size:]
    assert grown.tolist() == list(range(degree * (size + 1), degree * (size + 1 + growth)))


@settings(deadline=None)
@given(st.sampled_from(CHAINS), st.integers(1, 9), st.data())
def test_a_leased_slot_has_one_name_at_every_degree(chain, size, data):
    """So a long request keeps its leases while its layers are at two degrees."""
    worker = data.draw(st.integers(0, chain.finest - 1))
    slots = np.arange(1, size + 1)
    ids = chain.leased_ids(worker, slots)
    assert (ids > size * chain.finest).all() and (ids < 1 << 31).all()
    for degree in chain.degrees:
        joint = chain.joint_slots_of_ids(degree, 0, ids, size)
        assert np.array_equal(joint, chain.joint_slots(degree, worker, slots))
    for other in range(chain.finest):
        assert chain.leased_from(other, ids).tolist() == [other == worker] * size
    assert np.array_equal(chain.lent_slots(ids), slots)


@settings(deadline=None)
@given(st.sampled_from(CHAINS).flatmap(lambda chain: st.tuples(st.just(chain), layouts(chain))))
def test_places_are_a_bijection_in_every_mixed_layout(case):
    chain, degrees = case
    n = chain.finest
    places = [chain.place(degrees[home], home, unit) for home in range(n) for unit in range(n)]
    assert sorted(places) == [(worker, place) for worker in range(n) for place in range(n)]


@settings(deadline=None)
@given(st.sampled_from(CHAINS), st.data())
def test_a_place_is_the_row_of_the_joint_slot_in_the_view_of_its_degree(chain, data):
    """Re-viewed as [rows * d, H / d, D], a pool has a token's heads at row joint_slot(d, i, s)."""
    degree = data.draw(st.sampled_from(chain.degrees))
    worker = data.draw(st.integers(0, chain.finest - 1))
    unit = data.draw(st.integers(0, chain.finest - 1))
    slot = data.draw(st.integers(0, 50))
    holder, place = chain.place(degree, worker, unit)
    width = chain.finest // degree
    row, column = divmod(slot * chain.finest + place, width)
    assert row == chain.joint_slots(degree, worker, slot)
    assert chain.shard(degree, holder) * width + column == unit
    assert holder // degree == worker // degree


@pytest.mark.parametrize("degrees", [(), (2, 4), (1, 2, 3), (1, 2, 2), (1, 4, 2)])
def test_a_chain_that_is_none_is_refused(degrees):
    with pytest.raises(AssertionError):
        DegreeChain(degrees)
