import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from tests.control.layout.chains import CHAINS, layouts

CHAIN = DegreeChain((1, 2, 4))


def test_instances_of_a_mixed_layout():
    layout = Layout((2, 2, 1, 1, 4, 4, 4, 4))
    assert layout.instances == ((0, 1), (2,), (3,), (4, 5, 6, 7))
    assert layout.instance_of(1) == (0, 1)
    assert layout.instance_of(3) == (3,)
    assert layout.instance_of(6) == (4, 5, 6, 7)


@settings(deadline=None)
@given(st.sampled_from(CHAINS).flatmap(layouts))
def test_instances_partition_the_ranks_and_agree_with_the_degrees(degrees):
    layout = Layout(degrees)
    assert sum(layout.instances, ()) == tuple(range(layout.workers))
    for instance in layout.instances:
        assert instance[0] % len(instance) == 0
        for rank in instance:
            assert layout.instance_of(rank) == instance
            assert layout.degrees[rank] == len(instance)


@pytest.mark.parametrize("degrees", [(), (2,), (1, 2, 2, 1), (2, 1), (0, 1), (4, 4, 4, 2)])
def test_degrees_that_are_no_partition_are_refused(degrees):
    with pytest.raises(LayoutError, match="degrees: "):
        Layout(degrees)


def test_uniform_needs_a_divisor():
    assert Layout.uniform(4, 2).degrees == (2, 2, 2, 2)
    with pytest.raises(LayoutError, match="3 does not divide 4 workers"):
        Layout.uniform(4, 3)


@pytest.mark.parametrize(
    ("before", "ranks", "degree", "after"),
    [
        ((1, 1, 1, 1), [0, 1], 2, (2, 2, 1, 1)),
        ((1, 1, 1, 1), [2, 3], 2, (1, 1, 2, 2)),
        ((1, 1, 1, 1), [3, 1, 0, 2], 2, (2, 2, 2, 2)),
        ((2, 2, 1, 1), [0, 1, 2, 3], 4, (4, 4, 4, 4)),
        ((4, 4, 4, 4), [0, 1, 2, 3], 1, (1, 1, 1, 1)),
        ((2, 2, 2, 2), [2, 3], 1, (2, 2, 1, 1)),
        ((1, 1) * 4, [4, 5, 6, 7], 4, (1, 1, 1, 1, 4, 4, 4, 4)),
        ((2, 2), [0, 1], 2, (2, 2)),
    ],
)
def test_changes(before, ranks, degree, after):
    assert Layout(before).change(CHAIN, ranks, degree) == Layout(after)


@pytest.mark.parametrize(
    ("before", "ranks", "degree", "message"),
    [
        ((1, 1, 1, 1), [], 1, "ranks: empty"),
        ((1, 1, 1, 1), [0, 5], 2, r"ranks: \[0, 5\] has ranks outside 0..3"),
        ((1, 1, 1, 1), [-1, 0], 2, r"ranks: \[-1, 0\] has ranks outside 0..3"),
        ((1, 1, 1, 1), [1, 1], 2, r"ranks: \[1, 1\] names a rank twice"),
        ((1, 1, 1, 1), [0, 1, 2], 2, r"ranks: .* has 3 ranks; a block has one of 1, 2, 4"),
        ((1, 1, 1, 1), [1, 2], 2, r"ranks: \[1, 2\] is not aligned; .* block \[0, 1\]"),
        ((1, 1, 1, 1), [0, 2], 2, r"ranks: .* is not aligned"),
        ((4, 4, 4, 4), [0, 1], 1, r"ranks: .* cuts the instance \[0, 1, 2, 3\] of rank 0"),
        ((1, 1, 1, 1), [0, 1], 3, "degree: 3 is not one of the allowed degrees 1, 2, 4"),
        ((1, 1, 1, 1), [0, 1], 0, "degree: 0 is not one"),
        ((1, 1, 1, 1), [0, 1], 4, r"degree: 4 needs 4 ranks, got 2: \[0, 1\]"),
    ],
)
def test_impossible_changes_name_their_argument(before, ranks, degree, message):
    with pytest.raises(LayoutError, match=message) as caught:
        Layout(before).change(CHAIN, ranks, degree)
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    assert "\n" not in str(caught.value)


def test_a_change_does_not_merge_and_split_at_once():
    layout = Layout((4, 4, 4, 4, 1, 1, 1, 1))
    with pytest.raises(LayoutError, match=r"would merge some instances .* and split others"):
        layout.change(DegreeChain((1, 2, 4, 8)), range(8), 2)


@settings(deadline=None)
@given(
    st.sampled_from(CHAINS),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8)), max_size=30),
)
def test_any_sequence_of_accepted_changes_keeps_a_valid_layout(chain, changes):
    layout = Layout.uniform(chain.finest, 1)
    for start, length, degree in changes:
        try:
            changed = layout.change(chain, range(start, start + length), degree)
        except LayoutError:
            continue
        block = slice(start, start + length)
        assert set(changed.degrees[block]) == {degree}
        assert changed.degrees[:start] == layout.degrees[:start]
        assert changed.degrees[block.stop :] == layout.degrees[block.stop :]
        layout = changed


def test_orders_are_all_changes_that_lead_elsewhere():
    chain = DegreeChain((1, 2, 4))
    found = [(tuple(ranks), degree) for ranks, degree in Layout((2, 2, 1, 1)).orders(chain)]
    assert found == [
        ((0, 1), 1), ((2, 3), 2), ((0, 1, 2, 3), 1), ((0, 1, 2, 3), 2), ((0, 1, 2, 3), 4),
    ]  # fmt: skip
    assert list(Layout((1, 1, 1)).orders(DegreeChain((1, 2)))) == [(range(2), 2)]
