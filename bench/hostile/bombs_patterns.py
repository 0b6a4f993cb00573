"""Regular expressions, schemas and grammars that explode, recurse or say nothing."""

import json
from collections.abc import Iterator

from bench.hostile.bomb import Bomb, generate_body
from bench.hostile.cases import Expect

_LONG_OUTPUT = 80
_REFUSE, _EITHER = Expect.REFUSE, Expect.EITHER


def _nested_schema(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + '{"type":"null"}' + "}}" * depth


def make_patterns() -> Iterator[Bomb]:
    """All of them."""
    yield from _stops()
    yield from _regexes()
    yield from _schemas()
    yield from _grammars()


def _stops() -> Iterator[Bomb]:
    long = {"max_new_tokens": _LONG_OUTPUT}
    stops = {
        "exponential": "(a+)+b", "exponential alternatives": "(a|a)*b", "nested stars": "((a*)*)*b",
        "polynomial": "a*a*a*a*a*a*a*a*b", "back reference": "(a*)\\1b", "look-ahead": "(?=(a+))*b",
    }  # fmt: skip
    for name, stop in stops.items():
        yield Bomb(
            "/generate", f"stop_regex {stop!r} over sixty a ({name})",
            generate_body(regex="a{60}", stop_regex=stop, **long), ("stop_regex",),
        )  # fmt: skip
    for stop in ("(", "[a", "a{99999999999}", "(?P<x", "*", "(a{1000}){1000}", "\ud800", ""):
        expect = _REFUSE if stop in ("(", "[a", "(?P<x", "*") else _EITHER
        yield Bomb(
            "/generate",
            f"stop_regex {stop!r}",
            generate_body(stop_regex=stop),
            ("stop_regex",),
            expect,
        )


def _regexes() -> Iterator[Bomb]:
    regexes = ("(a{1000}){1000}", "(a{0,1000}){0,1000}b", "(((((a|b)*)*)*)*)*", "(", "[z-a]",
               "a{100000}", "(?=a)b", "\\p{Nope}", "a" * 20_000, "\x00", "\ud800", "(" * 5000 +
               "a" + ")" * 5000, "(.*a){25}", "(a|b|ab)*c{500}")  # fmt: skip
    for regex in regexes:
        expect = _REFUSE if regex in ("(", "[z-a]") else _EITHER
        yield Bomb(
            "/generate", f"regex {regex[:40]!r} of {len(regex)}", generate_body(regex=regex),
            ("regex", "grammar"), expect,
        )  # fmt: skip


def _schemas() -> Iterator[Bomb]:
    schemas = {
        "not JSON": ("{", _REFUSE),
        "a number": ("7", _EITHER),
        "an unknown type": ('{"type": "nope"}', _REFUSE),
        "refers to itself": ('{"$ref": "#"}', _EITHER),
        "refers to itself in a ring": (
            '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
            _EITHER,
        ),
        "refers to nothing": ('{"$ref": "#/$defs/none"}', _REFUSE),
        "refers to a host": ('{"$ref": "http://127.0.0.1:9/x"}', _EITHER),
        "200 deep": (_nested_schema(200), _EITHER),
        "5,000 deep": (_nested_schema(5000), _EITHER),
        "huge maxLength": ('{"type":"string","maxLength":1000000000}', _EITHER),
        "huge minLength": ('{"type":"string","minLength":1000000000}', _EITHER),
        "negative maxLength": ('{"type":"string","maxLength":-1}', _EITHER),
        "huge minItems": ('{"type":"array","minItems":100000000}', _EITHER),
        "a pattern that explodes": (
            '{"type":"string","pattern":"^(a{1000}){1000}$"}',
            _EITHER,
        ),
        "5,000 alternatives": (
            json.dumps({"enum": [f"choice {n}" for n in range(5000)]}),
            _EITHER,
        ),
        "nothing fits": ('{"type":"integer","minimum":5,"maximum":1}', _EITHER),
        "numbers beyond 64 bits": ('{"type":"integer","minimum":1e300}', _EITHER),
        "false": ("false", _EITHER),
    }
    for name, (schema, expect) in schemas.items():
        yield Bomb(
            "/generate", f"json_schema: {name}", generate_body(json_schema=schema),
            ("json_schema", "grammar"), expect,
        )  # fmt: skip


def _grammars() -> Iterator[Bomb]:
    grammars = ("", "root ::= root", "root ::= root root", 'root ::= ("a"+)+ "b"', "nope",
                'root ::= "a"{1000000}', 'start ::= "a"', 'root ::= ' + '(' * 5000, "root ::= [",
                "root ::= x", "\x00", 'root ::= ""')  # fmt: skip
    for grammar in grammars:
        expect = _REFUSE if grammar in ("nope", "root ::= [", "root ::= x") else _EITHER
        yield Bomb(
            "/generate", f"ebnf {grammar[:40]!r}", generate_body(ebnf=grammar), ("ebnf", "grammar"),
            expect,
        )  # fmt: skip
    tags = ("{", "{}", '{"type":"structural_tag"}', "7", '{"structures":[],"triggers":[]}',
            '{"structures":[{"begin":"a","schema":{"$ref":"#"},"end":"b"}],"triggers":["a"]}',
            '{"type":"structural_tag","format":{"type":"nope"}}')  # fmt: skip
    for tag in tags:
        yield Bomb(
            "/generate", f"structural_tag {tag[:60]!r}", generate_body(structural_tag=tag),
            ("structural_tag", "grammar"), _REFUSE if tag in ("{", "7") else _EITHER,
        )  # fmt: skip
    both = generate_body(regex="a", ebnf='root ::= "a"')
    yield Bomb("/generate", "two grammars", both, ("regex", "ebnf"), _REFUSE)
