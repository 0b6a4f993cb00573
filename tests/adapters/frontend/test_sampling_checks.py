import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.sampling.sampling_params import SamplingParams

from amoeba_sglang.adapters.frontend.sampling_checks import _RANGES, require_sampling_params
from amoeba_sglang.errors import InvalidRequest

VOCABULARY = 1000


def test_ordinary_parameters_are_taken():
    require_sampling_params(
        {
            "max_new_tokens": 16, "min_new_tokens": 0, "temperature": 0, "top_p": 0.9, "top_k": -1,
            "min_p": 0.0, "stop": ["\n\n"], "stop_token_ids": [0, 999], "stop_regex": r"\d{3}",
            "frequency_penalty": -2, "repetition_penalty": 1.1, "n": 2, "ignore_eos": True,
            "regex": "a{60}", "logit_bias": {"0": -100, "999": 100}, "sampling_seed": -(2**63),
            "json_schema": None, "custom_params": {"a": [1, None]}, "stream_interval": 1,
        },
        VOCABULARY,
    )  # fmt: skip


@pytest.mark.parametrize("field", sorted(_RANGES))
@pytest.mark.parametrize("what", ["below", "above", "nan", "text", "list", "huge"])
def test_every_number_has_a_range_and_a_type(field, what):
    least, most = _RANGES[field]
    value = {
        "below": least - 1,
        "above": most + 1 if isinstance(most, int) else most * 2,
        "nan": math.nan,
        "text": "1",
        "list": [1],
        "huge": 10**5000,
    }[what]
    with pytest.raises(InvalidRequest, match=field):
        require_sampling_params({field: value}, VOCABULARY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop_token_ids", [1000]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [2**40]),
        ("stop_token_ids", "12"),
        ("logit_bias", {"1000": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": math.inf}),
        ("logit_bias", {"1": math.nan}),
        ("stop", ["\ud800"]),
        ("stop", [1]),
        ("stop_regex", "("),
        ("stop_regex", "(a{1000}){1000}"),
        ("stop_regex", ["a", "("]),
        # What is too much for a grammar: test_grammar_checks.py.
        ("regex", "((a{0,1000}){0,1000}){0,1000}"),
        ("json_schema", "{"),
        ("json_schema", {"type": "object"}),
        ("ebnf", "(" * 100),
        ("structural_tag", "["),
        ("ignore_eos", "yes"),
        ("watermark", {"key": "x"}),
        ("watermark", True),
        ("custom_params", [1]),
        ("custom_params", {"__sglang_reasoning_end_token_ids": [VOCABULARY]}),
        # SGLang's own fields.
        ("is_normalized", True),
        ("stop_regex_max_len", 5),
        ("no_such_field", 1),
    ],
)  # fmt: skip
def test_what_could_end_a_worker_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequest, match=field):
        require_sampling_params({field: value}, VOCABULARY)


def test_only_one_grammar_is_taken():
    with pytest.raises(InvalidRequest, match="regex.*ebnf"):
        require_sampling_params({"regex": "a", "ebnf": 'root ::= "a"'}, VOCABULARY)


@given(
    st.sampled_from(SamplingParams.__struct_fields__),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    ),
)
def test_whatever_is_taken_makes_sampling_params(field, value):
    params = {field: value}
    try:
        require_sampling_params(params, VOCABULARY)
    except InvalidRequest as error:
        assert len(str(error)) < 1000
        return
    SamplingParams(**params)


def test_no_field_of_the_class_was_forgotten():
    assert not dataclasses.is_dataclass(SamplingParams)
    with pytest.raises(InvalidRequest):
        require_sampling_params({"stop_strs": ["a"]}, VOCABULARY)
