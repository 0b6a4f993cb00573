import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.errors import InvalidRequest
from amoeba_sglang.frontend.values import (
    refuse,
    require_ids,
    require_name,
    require_prompt_ids,
    require_range,
    require_text,
)

MOST_INTEGER = 2**63 - 1


def test_a_refusal_names_the_field_its_value_and_what_is_allowed():
    error = refuse("top_k", "x" * 1000, "must be small")
    assert isinstance(error, ValueError)
    assert str(error) == f"top_k '{'x' * 59}... (1002 characters): must be small"


@pytest.mark.parametrize("value", [0, 1, 2, 0.5, 2.0])
def test_numbers_in_the_range_are_taken(value):
    require_range("field", value, 0, 2)


@pytest.mark.parametrize(
    "value", [-1, 3, 2.0001, math.nan, math.inf, -math.inf, 10**400, "1", None, [1], True, 1j]
)
def test_all_else_is_refused_by_name(value):
    with pytest.raises(InvalidRequest, match="^field .*: must be (a number|from 0 to 2)$"):
        require_range("field", value, 0, 2)


def test_an_infinite_bound_does_not_let_infinity_in():
    with pytest.raises(InvalidRequest):
        require_range("field", math.inf, 0, math.inf)


def test_a_bound_of_many_digits_is_not_rounded():
    with pytest.raises(InvalidRequest, match=f"to {MOST_INTEGER}$"):
        require_range("seed", MOST_INTEGER + 1, 0, MOST_INTEGER)


@pytest.mark.parametrize("wrong", [-1, 10, 2**40, 1.0, "1", True, None, [1]])
def test_the_first_id_that_no_token_has_is_named(wrong):
    require_ids("tokens", [0, 9], 10)
    with pytest.raises(InvalidRequest) as error:
        require_ids("tokens", [0, wrong, 11], 10)
    assert str(error.value) == f"tokens {wrong!r}: token ids are integers from 0 to 9"


@given(st.lists(st.integers(-3, 12)))
def test_prompts_are_judged_as_other_ids_are(ids):
    def refused(check):
        try:
            check("input_ids", ids, 10)
        except InvalidRequest as error:
            return str(error)
        return None

    assert refused(require_prompt_ids) == refused(require_ids)


def test_text_has_a_length_and_no_half_of_a_pair():
    require_text("stop", "\N{GRINNING FACE}" * 5, 5)
    require_text("text", "a" * 10_000)
    with pytest.raises(InvalidRequest, match="^stop 'aaaaaa': must have at most 5 characters$"):
        require_text("stop", "a" * 6, 5)
    with pytest.raises(InvalidRequest, match=r"^text '\\ud83d': is half of a surrogate pair"):
        require_text("text", "a\ud83db")


@pytest.mark.parametrize("name", ["", "a\x00", "\n", "a\x85b", "x" * 6, "\ud800"])
def test_what_is_no_name_is_refused(name):
    require_name("rid", "a b-é", 5)
    with pytest.raises(InvalidRequest, match="^rid "):
        require_name("rid", name, 5)
