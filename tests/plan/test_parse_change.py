"""What --transform says, or why it is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.plan.transform_plan import parse_change

CHAIN = DegreeChain((1, 2, 4))


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
