"""The plan of one change, and what cannot be planned."""

from __future__ import annotations

import pytest
from amoeba_sglang.plan.dry_run import parse_change, plan_change
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.dense_model import load_model
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError

CHAIN = DegreeChain((1, 2, 4))
MODEL = load_model("Qwen2.5-7B", 2, 2)
USUAL = {
    "page_size": 2 << 20, "live_tokens": 100, "layers_per_step": 7, "staging_mib": 8, "kv_page": 1,
}  # fmt: skip


def plan(before=(1, 1), after=(2, 2), **fields):
    return plan_change(MODEL, CHAIN, before, after, **USUAL | fields)


def test_a_plan_counts_every_worker_s_tokens_and_layers():
    merge = plan()
    assert merge.kind == "merge"
    # Half of each token's KV goes to the other worker.
    assert merge.received_bytes == (100 * MODEL.token_bytes // 2,) * 2
    assert [step.boundary for step in merge.steps] == [21, 14, 7, 0]
    assert plan((2, 2), (1, 1)).kind == "split"


def test_a_page_of_kv_moves_whole():
    """100 tokens fill 7 pages of 16."""
    assert plan(kv_page=16).received_bytes[0] % (16 * MODEL.token_bytes // 2) == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"live_tokens": -1}, "--live-tokens -1: must be at least 0"),
        ({"layers_per_step": -2}, "--layers-per-step -2: must be at least 0"),
        ({"staging_mib": 0}, "--staging-mib 0: must be at least 1"),
    ],
)
def test_amounts_that_cannot_be_are_refused_by_flag(fields, says):
    with pytest.raises(ConfigError, match=says):
        plan(**fields)


def test_a_model_that_has_no_such_shards_is_refused():
    with pytest.raises(ConfigError, match="8 does not divide"):
        plan_change(MODEL, DegreeChain((1, 8)), (1, 1), (2, 2), **USUAL)


@pytest.mark.parametrize(
    "text",
    ["", "1,1", "1,1:2,2:4,4", "a:b", "1,1:", "1,,1:2,2"],
)
def test_what_is_no_pair_of_lists_is_refused(text):
    with pytest.raises(ConfigError, match="not two lists of degrees like 1,1:2,2"):
        parse_change(text, CHAIN)


@pytest.mark.parametrize(
    "text",
    ["1,1:1,1", "1,1:2,2,1,1", "3,3,3:1,1,1", "2,2,1,1:1,1,2,2", "1,1,1:3,3,3", "1:1"],
)
def test_what_is_no_merge_or_split_of_a_block_is_refused(text):
    with pytest.raises(ConfigError, match="not a merge or a split of one block"):
        parse_change(text, CHAIN)


def test_a_side_that_is_no_layout_is_refused_with_its_fault():
    with pytest.raises(ConfigError, match="rank 0 says degree 2"):
        parse_change("2,1:2,2", CHAIN)


SIDES = st.sampled_from([(1, 1), (2, 2), (1, 1, 1, 1), (2, 2, 1, 1), (1, 1, 2, 2), (4,) * 4])


@settings(max_examples=60)
@given(SIDES, SIDES)
def test_text_of_a_change_is_read_or_refused(before, after):
    text = ":".join(",".join(map(str, side)) for side in (before, after))
    signs = {(b > a) - (b < a) for a, b in zip(before, after, strict=False)} - {0}
    if len(before) == len(after) and len(signs) == 1:
        assert parse_change(text, CHAIN) == (before, after)
    else:
        with pytest.raises(ConfigError):
            parse_change(text, CHAIN)
