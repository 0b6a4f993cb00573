import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.kv_shape import KVShape
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.staging import fit_exchange
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.plan.transform_plan import TransformPlan

CHAIN = DegreeChain((1, 2, 4))
SHAPE = KVShape(layers=30, kv_heads=4, head_dim=64, kv_dtype_bytes=4)
MIB = 1 << 20
MATRICES = (2 * 1536 * 576 * 4, 1536 * 576 * 4)


def build(before, after, live, per_step=0, shape=SHAPE, staging=8 * MIB):
    pages = WeightPages(CHAIN, 1 << 16, (MATRICES,) * shape.layers)
    change = before, after
    return TransformPlan.build(
        change, live, shape, pages, staging_bytes=staging, layers_per_step=per_step
    )


def test_bytes_of_the_measured_example():
    """2,048 live tokens a worker, 30 layers, 2 KiB of K and V a token-layer, half of them move."""
    plan = build((1, 1), (2, 2), (2048, 2048))
    assert plan.kind == "merge"
    assert plan.received_bytes == (2048 * 30 * 1024,) * 2


def test_uneven_and_mixed():
    plan = build((2, 2, 1, 1), (4, 4, 4, 4), (10, 0, 0, 100))
    assert plan.kind == "merge"
    unit = 30 * 2 * 64 * 4
    # Home 0 sends a quarter of its tokens to each of 2 and 3, home 3 to each of 0, 1 and 2.
    assert plan.received_bytes == (100 * unit, 100 * unit, 110 * unit, 10 * unit)
    assert sum(plan.received_bytes) == (10 * 2 + 100 * 3) * unit


def test_a_merge_moves_the_last_layers_first_and_a_split_the_first():
    merge = build((1, 1), (2, 2), (1, 1), per_step=12)
    assert [(step.layers, step.boundary) for step in merge.steps] == [
        (range(18, 30), 18),
        (range(6, 18), 6),
        (range(0, 6), 0),
    ]
    split = build((2, 2), (1, 1), (1, 1), per_step=12)
    assert split.kind == "split"
    assert [(step.layers, step.boundary) for step in split.steps] == [
        (range(0, 12), 12),
        (range(12, 24), 24),
        (range(24, 30), 30),
    ]
    assert [step.layers for step in build((1, 1), (2, 2), (1, 1)).steps] == [range(30)]


@settings(deadline=None)
@given(st.booleans(), st.integers(1, 90), st.integers(0, 100))
def test_layers_below_the_boundary_are_at_the_lower_degree_at_all_times(merge, layers, per_step):
    low, high = (1, 1), (2, 2)
    shape = KVShape(layers, 4, 64, 4)
    plan = build(low if merge else high, high if merge else low, (1, 1), per_step, shape)
    degrees = [1 if merge else 2] * layers
    for step in plan.steps:
        for layer in step.layers:
            assert degrees[layer] == (1 if merge else 2)
            degrees[layer] = 2 if merge else 1
        assert degrees == [1] * step.boundary + [2] * (layers - step.boundary)
        assert len(step.layers) <= (per_step or layers)
    assert degrees == [2 if merge else 1] * layers


counts = st.integers(1, 10_000)


@settings(deadline=None)
@given(counts, counts, st.integers(1, 1 << 20), st.integers(1, 1 << 24))
def test_an_exchange_fits_its_staging_and_fills_it(layers, slots, slot_bytes, staging):
    assume(staging >= slot_bytes)
    exchange = fit_exchange(layers, slots, slot_bytes, staging)
    assert 1 <= exchange.layers <= layers
    assert 1 <= exchange.super_slots <= slots
    used = exchange.layers * exchange.super_slots * slot_bytes
    assert used <= staging
    if exchange.layers < layers:
        assert used + exchange.super_slots * slot_bytes > staging
    if exchange.super_slots < slots:
        assert used + slot_bytes > staging


def test_staging_that_holds_no_token_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r"--amoeba-staging-mib.* 1023 bytes .* 1024 bytes"):
        fit_exchange(30, 100, 1024, 1023)
    with pytest.raises(ConfigError, match=r"511 bytes .* 1024 bytes"):
        build((1, 1), (2, 2), (1, 1), staging=511)


@settings(deadline=None)
@given(st.integers(3072, 1 << 24), st.lists(st.integers(0, 5000), min_size=4, max_size=4))
def test_peak_staging_is_bounded(staging, live):
    plan = build((1,) * 4, (4,) * 4, live, staging=staging)
    assert plan.peak_staging_bytes <= staging
    assert plan.peak_staging_bytes <= max(plan.received_bytes)


def test_a_dry_run_prints_the_plan():
    text = build((1, 1), (2, 2), (2048, 1024), per_step=15).describe()
    assert "merge of ranks [0, 1]: degrees [1, 1] -> [2, 2]" in text
    assert "94.4 MB of KV" in text
    assert "rank 0: 2048 live tokens, receives 31.5 MB" in text
    assert "step 1: layers 15..29, then b = 15" in text
    assert "step 2: layers 0..14, then b = 0" in text
    pages = -(-30 * sum(MATRICES) // (1 << 16))
    assert f"of {pages} weight pages mapped" in text
    assert f"peak memory of a worker: {pages} of the {pages} weight pages" in text
    assert "lent the unmapped ones after step 2" in text


@settings(deadline=None)
@given(
    st.sampled_from([((1, 1), (2, 2)), ((2, 2, 1, 1), (4,) * 4), ((1,) * 4, (4,) * 4)]),
    st.booleans(),
    st.integers(0, 7),
)
def test_no_step_needs_a_page_that_the_worker_does_not_own(change, merge, per_step):
    low, high = change
    before, after = (low, high) if merge else (high, low)
    shape = KVShape(5, 4, 64, 4)
    plan = build(before, after, (9,) * len(low), per_step, shape)
    mapped = [step.mapped_pages for step in plan.steps]
    assert max(map(max, mapped)) == plan.peak_pages <= plan.owned_pages
    # Memory falls step by step on a merge and rises on a split.
    for earlier, later in itertools.pairwise(mapped):
        for one, two in zip(earlier, later, strict=True):
            assert one >= two if merge else one <= two
    # At the end, and before the start, what is not mapped is what the KV may have.
    pages = WeightPages(CHAIN, 1 << 16, (MATRICES,) * shape.layers)
    whole = mapped[0] if merge else mapped[-1]
    kept = [pages.kept_pages(degree, rank).size for rank, degree in enumerate(low)]
    assert list(whole) == kept


def test_slots_of_several_tokens_move_whole():
    plan = build((1, 1), (2, 2), (2048, 2033), shape=replace(SHAPE, page=16))
    assert plan.live_tokens == (2048, 2048)
    assert plan.received_bytes == (2048 * 30 * 1024,) * 2
    assert build((1, 1), (2, 2), (0, 1), shape=replace(SHAPE, page=16)).live_tokens == (0, 16)
