import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.locations import (
    locations_at,
    missing_slots,
    next_locations,
    slots_filled,
    slots_of,
)

PAGES = st.sampled_from([1, 2, 16])


@settings(deadline=None)
@given(PAGES, st.lists(st.integers(1, 40), min_size=1, max_size=8), st.randoms())
def test_a_row_that_grows_fills_every_slot_before_the_next(page, steps, random):
    pool = list(range(1, 1 + sum(steps)))
    random.shuffle(pool)
    row, slots = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for tokens in steps:
        end = int(row[-1]) + 1 if len(row) else 0
        count = missing_slots(end, tokens, page)
        new, pool = np.array(pool[:count], dtype=np.int64), pool[count:]
        slots = np.concatenate([slots, new])
        row = np.concatenate([row, next_locations(end, tokens, new, page)])
        assert len(slots) == slots_filled(len(row), page)
        np.testing.assert_array_equal(row, locations_at(slots, 0, len(row), page))
        np.testing.assert_array_equal(slots_of(row, page), slots)
    assert len(row) == sum(steps)
    start = random.randrange(len(row))
    np.testing.assert_array_equal(row[start:], locations_at(slots, start, len(row), page))


def test_a_slot_of_one_token_is_its_location():
    slots = np.array([5, 3, 9])
    assert locations_at(slots, 1, 3, 1).tolist() == [3, 9]
    assert missing_slots(7, 2, 1) == 2
    assert next_locations(7, 2, slots[:2], 1).tolist() == [5, 3]


@pytest.mark.parametrize("locations", ([5, 4], [4, 5, 6, 7, 9], [4, 6], [1]))
def test_tokens_that_do_not_lie_in_slots_in_order_are_found(locations):
    with pytest.raises(AssertionError, match="out of order"):
        slots_of(np.array(locations), 4)


def test_whole_and_last_slots_of_a_row():
    assert slots_of(np.array([4, 5, 6, 7, 20, 21]), 4).tolist() == [1, 5]
    assert slots_of(np.empty(0, dtype=np.int64), 4).tolist() == []
