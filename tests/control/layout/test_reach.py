"""Which devices reach each other, and an order in which every block does."""

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.reach import cut_block, find_order


def islands(*groups):
    """Devices that reach exactly those of their own group."""
    home = {device: number for number, group in enumerate(groups) for device in group}
    return [[home[i] == home[j] for j in sorted(home)] for i in sorted(home)]


def test_neighbours_that_reach_each_other_need_no_other_order():
    reach = islands((0, 1, 2, 3), (4, 5, 6, 7))
    assert cut_block(reach, 2) is cut_block(reach, 4) is None
    assert cut_block(reach, 8) == (0, 4)
    assert find_order(reach, 4, 2) == tuple(range(8))
    assert find_order(reach, 8, 1) is None


def test_crossed_islands_are_put_side_by_side():
    reach = islands((0, 2, 4, 6), (1, 3, 5, 7))
    assert cut_block(reach, 2) == (0, 1)
    assert find_order(reach, 4, 2) == (0, 2, 4, 6, 1, 3, 5, 7)
    assert find_order(reach, 4, 1) == (0, 2, 4, 6)


def test_one_way_is_not_enough():
    reach = [[True, True], [False, True]]
    assert cut_block(reach, 2) == (0, 1)
    assert find_order(reach, 2, 1) is None


def test_devices_that_are_in_no_block_are_left_out():
    assert find_order(islands((0,), (1, 2), (3, 4)), 2, 2) == (1, 2, 3, 4)
    assert cut_block(islands((0, 1), (2,)), 2) is None


@given(st.integers(2, 6), st.sampled_from([2, 3]), st.data())
def test_an_order_is_found_exactly_if_there_is_one(count, width, data):
    pairs = data.draw(st.sets(st.sampled_from(list(combinations(range(count), 2)))))
    pairs |= {(j, i) for i, j in pairs} | {(i, i) for i in range(count)}
    reach = [[(i, j) in pairs for j in range(count)] for i in range(count)]
    blocks = count // width
    if not blocks:
        return

    def works(order):
        picked = [[reach[i][j] for j in order] for i in order]
        return cut_block(picked, width) is None

    found = find_order(reach, width, blocks)
    if found is None:
        assert not any(works(order) for order in permutations(range(count), blocks * width))
    else:
        assert len(set(found)) == blocks * width and works(found)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_sixteen_devices_take_no_time(width):
    assert find_order(islands(tuple(range(16))), width, 16 // width) == tuple(range(16))
    rings = islands(*[(i, i + 8) for i in range(8)])
    assert find_order(rings, width, 16 // width) == (
        (0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15) if width == 2 else None
    )
