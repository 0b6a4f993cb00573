"""What `sampling_params` may say: every field has a type and a range, and no other is taken.

One exception in a worker ends all requests, so whatever could raise there is refused here. SGLang
checks some ranges itself, after these.
"""

from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec
import regex
from sglang.srt.sampling.sampling_params import (
    TOP_K_ALL,
    SamplingParams,
    get_max_seq_length,
    get_request_reasoning_end_token_ids,
)
from sglang.srt.sampling.watermarking.core import normalize_watermark_request

from amoeba_sglang.errors import InvalidRequest
from amoeba_sglang.frontend.grammar_checks import require_grammar, require_repetitions
from amoeba_sglang.frontend.values import refuse, require_ids, require_range, require_text

MOST_TOKENS = 2**31 - 1
_MOST_TEMPERATURE = 1e6
# Of a logit; with a temperature it must stay a finite float32.
_MOST_BIAS = 1e9
_MOST_STOP_CHARACTERS = 4096

_RANGES: dict[str, tuple[float, float]] = {
    "max_new_tokens": (0, MOST_TOKENS),
    "min_new_tokens": (0, MOST_TOKENS),
    "temperature": (0, _MOST_TEMPERATURE),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "top_k": (-1, TOP_K_ALL),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    # Logits are divided by it, and must stay finite.
    "repetition_penalty": (0.01, 2),
    "stream_interval": (1, MOST_TOKENS),
    "sampling_seed": (-(2**63), 2**63 - 1),
    "n": (1, MOST_TOKENS),
}
# As the OpenAI routes call them.
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens, max_completion_tokens",
    "min_new_tokens": "min_tokens",
    "sampling_seed": "seed",
    "json_schema": "response_format",
    "structural_tag": "response_format, tools",
}
# Fields of SamplingParams that SGLang fills itself.
_INTERNAL = {
    "stop_strs",
    "stop_regex_strs",
    "stop_str_max_len",
    "stop_regex_max_len",
    "is_normalized",
}
_GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")
_TYPES = {
    name: hint for name, hint in get_type_hints(SamplingParams).items() if name not in _INTERNAL
}


def require_sampling_params(params: Mapping[str, Any], vocabulary: int) -> None:
    """Raise InvalidRequest, naming the field, unless a worker can do with these `sampling_params`.

    `vocabulary`: token ids of the model are 0 to `vocabulary` less one.
    """
    for field, value in params.items():
        if field not in _TYPES:
            raise InvalidRequest(
                f"sampling_params has no field {ascii(field)[:80]}; its fields are "
                f"{', '.join(_TYPES)}"
            )
        if value is not None:
            _require_field(field, value, vocabulary)
    if sum(params.get(name) is not None for name in _GRAMMARS) > 1:
        raise InvalidRequest(f"{', '.join(_GRAMMARS)}: a request can have only one of them")


def describe_field(field: str) -> str:
    """The name of a field, with those that the OpenAI routes give it."""
    return f"{field} ({_OTHER_NAMES[field]})" if field in _OTHER_NAMES else field


def _require_field(field: str, value: Any, vocabulary: int) -> None:
    name = describe_field(field)
    try:
        msgspec.convert(value, _TYPES[field])
    except msgspec.ValidationError as error:
        raise refuse(name, value, str(error)) from None
    if field in _RANGES:
        require_range(name, value, *_RANGES[field])
        if field == "top_k" and value == 0:
            raise refuse(name, value, "must be -1, for all tokens, or at least 1")
    elif field in ("stop", "stop_regex"):
        for text in [value] if isinstance(value, str) else value:
            require_text(name, text, _MOST_STOP_CHARACTERS)
            if field == "stop_regex":
                _require_stop_regex(text)
    elif field == "stop_token_ids":
        require_ids(name, value, vocabulary)
    elif field == "logit_bias":
        _require_bias(value, vocabulary)
    elif field in _GRAMMARS:
        require_grammar(field, name, value)
    elif field == "watermark":
        _require_watermark(value)
    elif field == "custom_params":
        _require_custom_params(value, vocabulary)


def _require_bias(bias: Mapping[str, float], vocabulary: int) -> None:
    for token, amount in bias.items():
        if not (token.isascii() and token.isdecimal() and int(token[:12]) < vocabulary):
            raise refuse("logit_bias", token, f"its keys are token ids from 0 to {vocabulary - 1}")
        require_range("logit_bias", amount, -_MOST_BIAS, _MOST_BIAS)


def _require_watermark(value: Any) -> None:
    try:
        normalize_watermark_request(value)
    except (TypeError, ValueError) as error:
        raise refuse("watermark", value, str(error)) from None


def _require_custom_params(value: Any, vocabulary: int) -> None:
    try:
        get_request_reasoning_end_token_ids(value, vocab_size=vocabulary, strict=True)
    except ValueError as error:
        raise refuse("custom_params", value, str(error)) from None


def _require_stop_regex(pattern: str) -> None:
    """By the module that workers search with, and by the one that SGLang sizes it with."""
    # The module unrolls repetitions, which took all memory for a nested few.
    require_repetitions("stop_regex", pattern)
    try:
        regex.compile(pattern)
        get_max_seq_length(pattern)
    except Exception as error:
        # Both parsers raise a dozen types, and nothing but the pattern goes into them.
        raise refuse("stop_regex", pattern, f"is no regular expression: {error}") from None
