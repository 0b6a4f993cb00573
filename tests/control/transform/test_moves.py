from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import (
    UnitMove,
    find_cycles,
    unit_moves,
    units_per_slot,
    widen,
)
from tests.control.layout.chains import CHAINS, layouts

CHAIN = DegreeChain((1, 2, 4))
changes = st.sampled_from(CHAINS).flatmap(
    lambda chain: st.tuples(
        st.just(chain), st.sampled_from(chain.degrees).flatmap(lambda w: paths(chain, w))
    )
)


def paths(chain, width):
    return st.lists(layouts(chain, width), min_size=2, max_size=5)


def homed(chain, degrees):
    """{(worker, place): (home, unit)} of one super-slot: what lies where."""
    units = product(range(len(degrees)), range(chain.finest))
    return {chain.place(degrees[home], home, unit): (home, unit) for home, unit in units}


def apply(moves, memory):
    changed = dict(memory)
    for move in moves:
        at = (move.source, move.source_place)
        assert memory[at] == (move.home, move.unit)
        changed[move.target, move.target_place] = memory[at]
    return changed


@settings(deadline=None)
@given(changes)
def test_moves_along_any_path_end_where_the_layout_says(case):
    chain, path = case
    memory = homed(chain, path[0])
    for before, after in pairwise(path):
        memory = apply(unit_moves(chain, before, after), memory)
        assert memory == homed(chain, after)
    assert apply(unit_moves(chain, path[-1], path[0]), memory) == homed(chain, path[0])


def test_both_ways_to_degree_4_place_units_alike():
    ones, twos, fours = (1,) * 4, (2,) * 4, (4,) * 4
    direct = apply(unit_moves(CHAIN, ones, fours), homed(CHAIN, ones))
    by_two = apply(unit_moves(CHAIN, ones, twos), homed(CHAIN, ones))
    assert apply(unit_moves(CHAIN, twos, fours), by_two) == direct


@settings(deadline=None)
@given(changes)
def test_every_move_changes_worker_and_stays_in_the_block(case):
    chain, path = case
    moves = unit_moves(chain, path[0], path[1])
    for move in moves:
        assert move.source != move.target
        assert 0 <= move.source < len(path[0])
        assert 0 <= move.target < len(path[0])
    assert len({(move.target, move.target_place) for move in moves}) == len(moves)


@settings(deadline=None)
@given(changes)
def test_cycles_are_the_same_moves_and_leave_places_before_others_get_there(case):
    chain, path = case
    moves, memory = unit_moves(chain, path[0], path[1]), homed(chain, path[0])
    assert sorted(map(str, moves)) == sorted(str(m) for cycle in find_cycles(moves) for m in cycle)
    for aside, *others in find_cycles(moves):
        kept = memory.pop((aside.source, aside.source_place))
        for move in others:
            assert (move.target, move.target_place) not in memory
            memory[move.target, move.target_place] = memory.pop((move.source, move.source_place))
        memory[aside.target, aside.target_place] = kept
        # A kernel is compiled for each length.
        assert 1 + len(others) in (2, 4, 8, 16) and len(others) < chain.finest
    assert memory == homed(chain, path[1])


@pytest.mark.parametrize(
    ("before", "after", "stay"), [(1, 2, 0.5), (2, 4, 0.5), (1, 4, 0.25), (2, 1, 0.5), (4, 1, 0.25)]
)
def test_share_of_units_that_stay(before, after, stay):
    moves = unit_moves(CHAIN, (before,) * 4, (after,) * 4)
    assert 1 - len(moves) / 16 == stay
    for worker in range(4):
        assert sum(move.target == worker for move in moves) == 4 * (1 - stay)


def test_one_pair_of_a_mixed_layout_moves_alone():
    moves = unit_moves(CHAIN, (2, 2, 1, 1), (2, 2, 2, 2))
    assert {move.home for move in moves} == {2, 3}
    assert unit_moves(CHAIN, (2, 2, 1, 1), (2, 2, 1, 1)) == ()


def test_units_per_slot_counts_the_busiest_worker():
    assert units_per_slot(unit_moves(CHAIN, (1,) * 4, (4,) * 4)) == 3
    assert units_per_slot(unit_moves(CHAIN, (1,) * 4, (2,) * 4)) == 2
    # Workers 2 and 3 give three of their four units away and get two.
    assert units_per_slot(unit_moves(CHAIN, (2, 2, 1, 1), (4,) * 4)) == 3
    assert units_per_slot(()) == 0


def test_degrees_that_are_not_aligned_are_refused():
    with pytest.raises(Exception, match="aligned"):
        unit_moves(CHAIN, (1, 2, 2, 1), (1, 1, 1, 1))


def test_a_merge_of_two_of_four_moves_pairs_of_units():
    width, runs = widen(unit_moves(CHAIN, (1, 1), (2, 2)), 4)
    assert width == 2
    assert set(runs) == {UnitMove(0, 1, 0, 1, 1, 0), UnitMove(1, 0, 1, 0, 0, 1)}


@settings(deadline=None)
@given(changes)
def test_runs_are_the_same_moves(case):
    chain, path = case
    moves = unit_moves(chain, path[0], path[1])
    width, runs = widen(moves, chain.finest)
    single = {
        UnitMove(
            run.home,
            run.unit * width + k,
            run.source,
            run.source_place * width + k,
            run.target,
            run.target_place * width + k,
        )
        for run in runs
        for k in range(width)
    }
    assert single == set(moves)
    assert len(runs) * width == len(moves)
    if moves:
        assert width >= chain.finest // max(path[0] + path[1])
