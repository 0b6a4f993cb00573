import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.pairs import (
    Interval,
    Pair,
    PairFile,
    Series,
    Verdict,
    exit_code,
    judge,
    median_interval,
)

SERIES = Series("aaa", "bbb", "float32", workers=2, degree=1, kind="decode", against="base")
HOLDS, BROKEN, UNDECIDED = Verdict.HOLDS, Verdict.BROKEN, Verdict.UNDECIDED


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95)


@pytest.mark.parametrize(
    ("count", "rank", "outside"),
    # Of 2^n equally likely sets of sides, those with fewer than k ratios on one side.
    [(5, 1, 2 * 1 / 32), (6, 1, 2 * 1 / 64), (12, 3, 2 * (1 + 12 + 66) / 4096)],
)
def test_bounds_are_the_ratios_that_leave_ninety_percent_inside(count, rank, outside):
    values = [float(n) for n in range(1, count + 1)]
    found = median_interval(values[::-1])
    assert (found.low, found.high) == (rank, count + 1 - rank)
    assert math.isclose(found.coverage, 1 - outside)
    assert found.median == (count + 1) / 2


@pytest.mark.parametrize("count", [5, 6, 12, 13])
def test_the_next_ratios_inwards_would_leave_less(count):
    found = median_interval([float(n) for n in range(1, count + 1)])
    below = int(found.low)
    outside = 2 * sum(math.comb(count, k) for k in range(below + 1)) / 2**count
    assert found.coverage >= 0.9 > 1 - outside


def test_too_few_ratios_have_no_interval():
    with pytest.raises(ValueError, match="4 ratios"):
        median_interval([1.0] * 4)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    draws = np.random.default_rng(0).lognormal(size=(400, 12))
    intervals = [median_interval(row) for row in draws]
    held = np.mean([i.low <= 1.0 <= i.high for i in intervals])
    assert abs(held - intervals[0].coverage) < 0.03


@given(st.lists(st.floats(0.5, 2.0), min_size=5, max_size=40), st.randoms())
def test_bounds_lie_around_the_median_whatever_the_order(ratios, random):
    found = median_interval(ratios)
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)
    random.shuffle(ratios)
    assert median_interval(ratios) == found


@pytest.mark.parametrize(
    ("found", "itself", "verdict"),
    [
        (interval(0.97, 0.99), interval(0.99, 1.01), HOLDS),
        (interval(0.96, 0.98), interval(0.99, 1.01), HOLDS),
        (interval(1.01, 1.02), interval(0.99, 1.01), HOLDS),
        (interval(0.95, 0.97), interval(0.99, 1.01), BROKEN),
        (interval(0.95, 1.01), interval(0.99, 1.01), UNDECIDED),
        (interval(1.00, 1.06), interval(0.99, 1.01), UNDECIDED),
        # However much noise there is, below is below.
        (interval(0.50, 0.90), interval(0.99, 1.01), BROKEN),
    ],
)
def test_what_a_bar_of_98_percent_says(found, itself, verdict):
    assert judge(found, itself, 0.98) is verdict


def test_twice_the_width_of_one_against_itself_is_still_narrow_enough():
    assert judge(interval(0.75, 1.25), interval(1.0, 1.25), 0.98) is HOLDS
    assert judge(interval(0.75, 1.2501), interval(1.0, 1.25), 0.98) is UNDECIDED


def test_one_broken_bar_outweighs_all_others():
    assert exit_code([HOLDS, HOLDS]) == 0
    assert exit_code([HOLDS, UNDECIDED]) == 2
    assert exit_code([UNDECIDED, BROKEN, HOLDS]) == 1


def test_a_ratio_above_one_says_that_this_version_is_faster():
    assert Pair(this=2.0, other=3.0).ratio == 1.5


def test_pairs_outlive_the_run(tmp_path):
    path = tmp_path / "new" / "pairs.jsonl"
    pairs = PairFile(path)
    assert pairs.get(SERIES) == {}
    pairs.add(SERIES, 3, Pair(1.0, 2.0))
    pairs.add(SERIES, 0, Pair(4.0, 5.0))
    assert PairFile(path).get(SERIES) == pairs.get(SERIES) == {3: Pair(1, 2), 0: Pair(4, 5)}


@pytest.mark.parametrize(
    "change",
    [
        {"this": "c"}, {"base": "c"}, {"dtype": "bfloat16"}, {"workers": 4}, {"degree": 2},
        {"kind": "prefill"}, {"against": "itself"},
    ],
)  # fmt: skip
def test_pairs_of_anything_else_are_not_taken(tmp_path, change):
    path = tmp_path / "pairs.jsonl"
    PairFile(path).add(SERIES, 0, Pair(1.0, 2.0))
    assert PairFile(path).get(replace(SERIES, **change)) == {}


def test_half_a_line_of_a_killed_run_is_measured_again(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = PairFile(path)
    pairs.add(SERIES, 0, Pair(1.0, 2.0))
    pairs.add(SERIES, 1, Pair(1.0, 2.0))
    path.write_bytes(path.read_bytes()[:-20])
    again = PairFile(path)
    assert set(again.get(SERIES)) == {0}
    again.add(SERIES, 1, Pair(3.0, 4.0))
    assert PairFile(path).get(SERIES)[1] == Pair(3.0, 4.0)
