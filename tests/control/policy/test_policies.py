from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.base import RequestSize, View, WorkerLoad
from amoeba_sglang.control.policy.least_load import place_on_least_loaded
from amoeba_sglang.control.policy.round_robin import place_in_turn
from amoeba_sglang.flags import POLICIES as POLICY_FLAGS

ANY = RequestSize(10, None)
LOADS = st.builds(WorkerLoad, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9999))
PARTITIONS = ((1, 1, 1, 1), (2, 1, 1), (1, 1, 2), (2, 2), (4,))


def instances_of(widths):
    found, first = [], 0
    for width in widths:
        found.append(tuple(range(first, first + width)))
        first += width
    return tuple(found)


VIEWS = st.builds(
    View,
    st.sampled_from(PARTITIONS).map(instances_of),
    st.tuples(LOADS, LOADS, LOADS, LOADS),
    st.integers(0, 10**6),
    st.just((0, 1, 2, 3)),
)
ABLE = st.sets(st.integers(0, 3), min_size=1).map(sorted).map(tuple)
# Long requests fit only some ranks.
NARROW = st.builds(lambda view, able: replace(view, able=able), VIEWS, ABLE)


def test_every_flag_value_has_a_policy():
    assert set(POLICY_FLAGS) == set(POLICIES)


@given(NARROW, st.sampled_from(sorted(POLICIES)))
def test_a_home_can_hold_the_request_and_the_same_view_gives_the_same_home(view, name):
    decision = POLICIES[name].place(ANY, view)
    assert decision.rank in view.able
    assert decision == POLICIES[name].place(ANY, view)
    assert decision.reason


@given(NARROW)
def test_least_load_takes_the_idlest_worker_that_can_hold_it_of_the_idlest_such_instance(view):
    rank = place_on_least_loaded(ANY, view).rank

    def mean(ranks):
        return sum(view.loads[r].requests for r in ranks) / len(ranks)

    able = [ranks for ranks in view.instances if set(ranks) & set(view.able)]
    mine = next(ranks for ranks in able if rank in ranks)
    assert all(mean(mine) <= mean(ranks) for ranks in able)
    peers = [r for r in mine if r in view.able]
    assert all(view.loads[rank].requests <= view.loads[r].requests for r in peers)


@given(VIEWS.filter(lambda view: len(view.instances) == 4))
def test_least_load_at_degree_one_is_the_least_loaded_worker(view):
    chosen = view.loads[place_on_least_loaded(ANY, view).rank]
    assert (chosen.requests, chosen.tokens) == min((w.requests, w.tokens) for w in view.loads)


def test_tokens_break_ties():
    loads = (WorkerLoad(1, 0, 500), WorkerLoad(0, 1, 20))
    view = View(((0,), (1,)), loads, 0, (0, 1))
    assert place_on_least_loaded(ANY, view).rank == 1


@given(NARROW)
def test_round_robin_visits_every_worker_that_can_hold_the_request(view):
    turns = [replace(view, placed=view.placed + k) for k in range(4)]
    assert {place_in_turn(ANY, turn).rank for turn in turns} == set(view.able)


@given(VIEWS)
def test_round_robin_visits_every_worker(view):
    turns = [replace(view, placed=view.placed + k) for k in range(4)]
    assert sorted(place_in_turn(ANY, turn).rank for turn in turns) == [0, 1, 2, 3]


@pytest.mark.parametrize("able", [(), (2,), (0, 2)])
def test_a_view_in_which_no_rank_or_a_strange_one_can_hold_the_request_is_a_bug(able):
    with pytest.raises(AssertionError):
        View(((0,), (1,)), (WorkerLoad(), WorkerLoad()), 0, able)


def test_a_view_whose_instances_miss_a_rank_is_a_bug():
    with pytest.raises(AssertionError):
        View(((0,),), (WorkerLoad(), WorkerLoad()), 0, (0,))
