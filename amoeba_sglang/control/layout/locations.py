"""Slots of several tokens (`--page-size`): the locations of a row's tokens in its slots.

The n-th slot of a row holds its tokens from position n * page on, in order. What upstream calls a
slot is a location here: slot * page + offset. With page 1 the two are one.
"""

import numpy as np


def slots_filled(tokens: int, page: int) -> int:
    """How many slots a row of that many tokens takes."""
    return -(-tokens // page)


def locations_at(slots: np.ndarray, start: int, stop: int, page: int) -> np.ndarray:
    """Locations of positions [start, stop) of a row; `slots`: all of its slots, int64."""
    positions = np.arange(start, stop)
    return slots[positions // page] * page + positions % page


def slots_of(locations: np.ndarray, page: int) -> np.ndarray:
    """The slots of tokens from the start of a slot on, int64; they must lie as described above."""
    slots = locations[::page].astype(np.int64) // page
    expected = locations_at(slots, 0, len(locations), page)
    assert np.array_equal(locations, expected), f"tokens out of order in their slots: {locations}"
    return slots


def missing_slots(end: int, tokens: int, page: int) -> int:
    """How many more slots `tokens` tokens need after a row's last one, which is at location `end` -
    1; 0 if there is none yet."""
    return slots_filled(max(0, tokens - -end % page), page)


def next_locations(end: int, tokens: int, slots: np.ndarray, page: int) -> np.ndarray:
    """Where these tokens go: `slots` are the `missing_slots` that the row gets, in order."""
    rest = min(-end % page, tokens)
    there = locations_at(slots, 0, tokens - rest, page)
    return np.concatenate([np.arange(end, end + rest), there])
