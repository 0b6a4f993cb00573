"""Grown and leased slots: each in use, free or withheld, against sets that are kept by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from amoeba_sglang.control.shares.extra import ExtraSlots

OWN = 10


def make(grown=4, leased=3):
    extra = ExtraSlots(OWN)
    extra.grow(grown)
    extra.lease(FIRST_LEASED + np.arange(leased))
    return extra


def test_grown_ones_are_given_first():
    extra = make()
    assert extra.take(5).tolist() == [11, 12, 13, 14, FIRST_LEASED]
    assert (extra.count, extra.free_count) == (7, 2)


def test_what_is_in_use_can_neither_shrink_nor_go_home():
    extra = make()
    slots = extra.take(5)
    with pytest.raises(AssertionError, match="4 grown slots are in use"):
        extra.grow(0)
    with pytest.raises(AssertionError, match="1 leased slots are in use"):
        extra.end_leases(slots[4:])
    with pytest.raises(AssertionError):
        extra.take(3)
    extra.put(slots)
    extra.grow(0)
    extra.end_leases(FIRST_LEASED + np.arange(3))
    assert extra.count == 0 and extra.free.tolist() == []


@pytest.mark.parametrize(
    ("own_room", "short_rest", "long_rest", "expected"),
    [
        (10, 0, 0, 17),
        (10, 4, 0, 13),
        # What short ones may still take is never of the extra ones.
        (10, 20, 0, 7),
        (10, 4, 7, 6),
        # Long ones that need more than the extra ones take own ones.
        (10, 4, 9, 4),
        (10, 4, 99, 0),
    ],
)
def test_room_is_what_nobody_else_may_take(own_room, short_rest, long_rest, expected):
    assert make().room(own_room, short_rest, long_rest) == expected


def test_a_flush_frees_all():
    extra = make()
    extra.take(6)
    extra.close(lambda ids: ids >= FIRST_LEASED)
    extra.clear()
    assert sorted(extra.free.tolist()) == (FIRST_LEASED + np.arange(3)).tolist()
    assert sorted(extra.withheld.tolist()) == [11, 12, 13, 14]


ACT = st.sampled_from(["take", "put", "close", "open"])


@settings(max_examples=100)
@given(
    st.integers(0, 5), st.integers(0, 5), st.lists(st.tuples(ACT, st.integers(0, 5)), max_size=15)
)
def test_every_slot_is_in_one_place(grown, leased, acts):
    extra, held, closed = make(grown, leased), [], False
    everything = sorted(extra.free.tolist())
    for act, number in acts:
        if act == "take":
            held += extra.take(min(number, extra.free_count)).tolist()
        elif act == "put":
            back, held = held[:number], held[number:]
            extra.put(np.array(back, dtype=np.int64))
        elif act == "close" and not closed:
            extra.close(lambda ids, n=number: ids % 5 < n)
            closed = True
        elif act == "open":
            extra.open()
            closed = False
        assert extra.closed == closed
        assert sorted([*extra.free.tolist(), *extra.withheld.tolist(), *held]) == everything
        if not closed:
            assert len(extra.withheld) == 0
