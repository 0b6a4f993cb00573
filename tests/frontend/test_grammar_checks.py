import json

import pytest

from amoeba_sglang.errors import InvalidRequest
from amoeba_sglang.frontend.grammar_checks import (
    MOST_CHARACTERS,
    MOST_COUNT,
    MOST_DEPTH,
    MOST_REPETITIONS,
    require_grammar,
    require_repetitions,
)


def nested(levels):
    """A schema of so many objects, one inside the other."""
    return '{"not":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("regex", "a{60}"),
        ("regex", "(" * MOST_DEPTH + ")" * MOST_DEPTH),
        ("regex", "a{100}b{100}"),
        ("regex", r"\(" * 1000),
        ("regex", "(a)" * 1000),
        ("regex", "a{,5}b{3,}c{}"),
        ("ebnf", 'root ::= "a" | "b"'),
        ("json_schema", "$$ANY$$"),
        ("json_schema", nested(MOST_DEPTH)),
        ("json_schema", "true"),
        ("json_schema", json.dumps({"maxLength": MOST_COUNT, "minItems": 0, "pattern": "a{9}"})),
        # Not a count: a property that is called so.
        ("json_schema", '{"properties": {"maxLength": {"type": "string"}}}'),
        ("structural_tag", '{"structures": [], "triggers": []}'),
    ],
)
def test_ordinary_grammars_are_taken(field, text):
    require_grammar(field, field, text)


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("regex", "a" * (MOST_CHARACTERS + 1), "at most 65536 characters"),
        ("regex", "\ud800", "surrogate pair"),
        ("regex", "(" * (MOST_DEPTH + 1), "nests 65 brackets, at most 64"),
        ("ebnf", "[" * 100, "nests 100 brackets"),
        ("regex", "(" * 30_000 + ")" * 30_000, "nests 30000 brackets"),
        ("regex", "(a{101}){100}", f"repetition counts is more than {MOST_REPETITIONS}"),
        # Side by side they are multiplied, too: what is nested in what is not looked at.
        ("regex", "a{101}b{100}", "repetition counts"),
        ("regex", "a{1,10001}", "repetition counts"),
        ("regex", "a{" + "9" * 5000 + "}", "repetition counts"),
        ("json_schema", "{", "is no JSON"),
        ("json_schema", nested(MOST_DEPTH + 1), "at most 64 levels"),
        ("json_schema", "[" * 30_000 + "]" * 30_000, "at most 64 levels"),
        ("structural_tag", "[" * 100 + "]" * 100, "at most 64 levels"),
        ("structural_tag", "$$ANY$", "is no JSON"),
    ],
)  # fmt: skip
def test_what_a_compiler_cannot_stand_is_refused_with_the_limit(field, text, reason):
    with pytest.raises(InvalidRequest, match=f"^response_format .*{reason}"):
        require_grammar(field, "response_format", text)


@pytest.mark.parametrize("key", ["minLength", "maxLength", "minItems", "maxItems", "minProperties"])
@pytest.mark.parametrize("count", [-1, MOST_COUNT + 1, 1e300])
def test_a_count_of_a_schema_is_named_wherever_it_is(key, count):
    text = json.dumps({"anyOf": [{"items": {key: count}}]})
    with pytest.raises(InvalidRequest, match=f"^json_schema: {key} .*from 0 to {MOST_COUNT}"):
        require_grammar("json_schema", "json_schema", text)


@pytest.mark.parametrize("key", ["pattern", "regex", "grammar", "ebnf"])
def test_an_expression_in_a_schema_is_judged_as_one_beside_it(key):
    text = json.dumps({"items": {key: "(a{1000}){1000}"}})
    with pytest.raises(InvalidRequest, match=f"^json_schema: {key} .*repetition counts"):
        require_grammar("json_schema", "json_schema", text)


def test_an_escaped_bracket_opens_nothing_and_an_escaped_backslash_escapes_nothing():
    require_repetitions("regex", r"\[" * 100)
    with pytest.raises(InvalidRequest, match="nests 100 brackets"):
        require_repetitions("regex", r"\\(" * 100)
