"""Hostile values for a field, by its type and by what is known of its range."""

import math
from collections.abc import Mapping
from typing import Any

from bench.hostile.cases import ABSENT, Expect, Raw, Value
from bench.hostile.ranges import CHANGING, ID_LISTS, PROMPTS, Bounds, Range
from bench.hostile.schema import Field

NUMBERS = (0, -1, 1, 2**31, 2**40, 2**63, 2**64, -(2**31), -(2**63) - 1, 10**30)
FLOATS = (0.0, -0.0, 1.5, 1e308, -1e308, 5e-324)
TOKENS = (math.nan, math.inf, -math.inf)
STRINGS = (
    "", " ", "\ud800", "a\ud800b", "\x00", "\x1b[31m\x07\x7f", "\u202e\ufeff\ufffd", "../../etc/x",
    "/dev/null", "{{ 7 * 7 }}{% for i in range(3) %}", "%s%n{0}", "'\"`;--", "\r\nX-Other: 1",
    "<|im_end|>", "nan", "-1", "None",
)  # fmt: skip
LONG = (10_000, 200_000)
_LONG_PROMPT = 1_000
_MANY = 10_000
_MANY_IDS = 300
_SAMPLES: dict[str, tuple[Any, ...]] = {
    "integer": (3,),
    "number": (1.5,),
    "string": ("x",),
    "boolean": (True, False),
    "array": ([], ["x"], [[]], [None]),
    "object": ({}, {"x": 1}),
    "null": (None,),
}
# Pydantic reads these as what was asked for: nobody is misunderstood.
_LENIENT = {
    ("boolean", "integer"), ("boolean", "number"), ("integer", "number"), ("null", "array"),
    ("integer", "boolean"), ("null", "object"), ("array", "object"),
}  # fmt: skip


def values_for(
    field: Field, bounds: Bounds, ranges: Mapping[str, Range], is_sent: bool = True
) -> list[Value]:
    """All values for one field, in an order that does not change.

    is_sent: whether a plain body has the field, so that it can be left out.
    """
    name = field.name
    found = [Value("absent", ABSENT if is_sent else None)]
    kinds = field.kinds or frozenset(_SAMPLES)
    known = ranges.get(name)
    numeric = kinds & {"integer", "number"}
    if known and (numeric or not field.is_typed):
        found += _at_the_ends(known, field)
    elif numeric:
        found += [Value("huge" if abs(n) > 2**30 else "at", n) for n in NUMBERS]
        found += [Value("odd", n) for n in FLOATS]
    if numeric:
        found += [Value("odd", n, Expect.REFUSE) for n in TOKENS]
    if "boolean" in kinds:
        found += [Value("at", True), Value("at", False)]
    if field.choices:
        found += [Value("at", choice) for choice in field.choices]
    if "string" in kinds:
        found += _strings(name in PROMPTS)
    if "array" in kinds:
        found += _arrays(field, bounds)
    if "object" in kinds:
        found += _objects()
    if field.is_typed:
        found += _wrong_types(field)
    same = CHANGING.isdisjoint(field.path)
    return [Value(v.kind, v.value, v.expect, same) for v in found]


def _at_the_ends(known: Range, field: Field) -> list[Value]:
    # A field of an API that has the name for something else keeps its type's word.
    return [
        *(Value("at", n, Expect.SERVE) for n in known.at if _fits(n, field)),
        *(Value("below", n, Expect.REFUSE) for n in known.below),
        *(Value("above", n, Expect.REFUSE) for n in known.above),
    ]


def _fits(number: Any, field: Field) -> bool:
    return not isinstance(number, float) or not field.is_typed or "number" in field.kinds


def _strings(prompt: bool) -> list[Value]:
    lengths = (_LONG_PROMPT,) if prompt else LONG
    return [
        *(Value("odd", text) for text in STRINGS),
        *(Value("huge", "ab " * (length // 3)) for length in lengths),
    ]


def _arrays(field: Field, bounds: Bounds) -> list[Value]:
    if field.name in ID_LISTS:
        last, ids = bounds.vocabulary - 1, (bounds.vocabulary, -1, 2**31, 2**40, 2**64)
        return [
            Value("at", [0], Expect.SERVE),
            Value("at", [last], Expect.SERVE),
            *(Value("above" if n > 0 else "below", [n], Expect.REFUSE) for n in ids),
            *(Value("above", [5, n], Expect.REFUSE) for n in ids),
            Value("odd", []),
            Value("type", [5, "x"], Expect.REFUSE),
            Value("type", [5, None]),
            Value("type", [5, 1.5], Expect.REFUSE),
            Value("type", [[5], 5], Expect.REFUSE),
            Value("type", [[[5]]], Expect.REFUSE),
            Value("odd", [5, math.nan], Expect.REFUSE),
            Value("odd", [True, False]),
            Value("huge", [5] * _MANY_IDS),
            Value("huge", [[5, 6]] * 64),
        ]
    many = _MANY_IDS if field.name in PROMPTS else _MANY
    return [
        Value("odd", []),
        Value("odd", [[]]),
        Value("odd", [None, 1, "x", {}, []]),
        Value("type", [{"x": [1]}]),
        Value("huge", [1] * many),
        Value("huge", ["x"] * many),
        Value("huge", Raw("[" * 200 + "]" * 200)),
    ]


def _objects() -> list[Value]:
    return [
        Value("odd", {}),
        Value("odd", {"no_such_key": 1}),
        Value("odd", {"": None, "\x00": [], "\ud800": {}}),
        Value("odd", Raw('{"a": 1, "a": 2}')),
        Value("huge", {f"key{n}": n for n in range(1000)}),
        Value("huge", {"a" * 10_000: "b" * 10_000}),
        Value("huge", Raw('{"a":' * 200 + "1" + "}" * 200)),
    ]


def _wrong_types(field: Field) -> list[Value]:
    found = []
    for kind, samples in _SAMPLES.items():
        if kind in field.kinds or (kind == "integer" and "number" in field.kinds):
            continue
        lenient = kind == "null" or any((kind, own) in _LENIENT for own in field.kinds)
        expect = Expect.EITHER if lenient else Expect.REFUSE
        found += [Value("type", sample, expect) for sample in samples]
    if "integer" in field.kinds:
        found += [Value("type", "3"), Value("type", 3.0)]
    deep = Expect.EITHER if "array" in field.kinds else Expect.REFUSE
    found.append(Value("type", Raw("[" * 200 + "]" * 200), deep))
    return found
