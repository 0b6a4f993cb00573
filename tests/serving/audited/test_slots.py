import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.audited.slots import audit_slots


def slots(*numbers):
    return np.array(numbers, dtype=np.int64)


def audit(size=9, free=(1, 2, 3), tree=(4, 5), requests=None, leased=(), padding=(0,)):
    requests = {"a": slots(6), "b": slots(9, 8, 7)} if requests is None else requests
    return audit_slots(size, slots(*free), slots(*tree), requests, slots(*leased), slots(*padding))


def test_a_clean_pool_has_no_problems():
    assert audit() == []
    assert audit(free=(1, 2), leased=(3,)) == []
    assert audit(free=(2, 3), padding=(0, 1)) == []


def test_leaked_slots_are_listed_as_runs():
    assert audit(free=(), tree=(5,)) == ["slots 1-4: no owner (leaked)"]
    assert audit(free=(1, 3)) == ["slot 2: no owner (leaked)"]


def test_two_owners_are_both_named():
    assert audit(tree=(3, 4, 5)) == ["slot 3: more than one owner: free, tree"]
    requests = {"a": slots(6, 7), "b": slots(9, 8, 7)}
    assert audit(requests=requests) == ["slot 7: more than one owner: request a, request b"]
    assert audit(leased=(4, 5)) == ["slots 4-5: more than one owner: tree, leased"]


def test_a_slot_twice_in_one_place_is_a_problem():
    assert audit(free=(1, 2, 3, 2)) == ["slot 2: more than one owner: free (2 times)"]


def test_padding_belongs_to_nobody():
    assert audit(free=(0, 1, 2, 3)) == ["slot 0: padding, but in free"]


def test_slots_outside_of_the_pool_are_named():
    assert audit(tree=(4, 5, 10, -1)) == [
        "slot 10: outside of 0..9, in tree",
        "slot -1: outside of 0..9, in tree",
    ]


@settings(deadline=None)
@given(st.data(), st.integers(1, 60))
def test_a_partition_is_clean_and_any_one_change_is_not(data, size):
    owners = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    held = [slots(*[slot + 1 for slot in range(size) if owners[slot] == who]) for who in range(5)]
    victim = data.draw(st.integers(0, size - 1))
    home, other = owners[victim], data.draw(st.integers(0, 4))

    def check():
        return audit_slots(size, held[0], held[1], {"a": held[2], "b": held[3]}, held[4])

    assert check() == []
    held[other] = np.append(held[other], victim + 1)
    (problem,) = check()
    assert problem.startswith(f"slot {victim + 1}: more than one owner")
    held[home], held[other] = (
        held[home][held[home] != victim + 1],
        held[other][held[other] != victim + 1],
    )
    assert check() == [f"slot {victim + 1}: no owner (leaked)"]
