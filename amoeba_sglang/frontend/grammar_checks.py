"""How large a grammar may be before a worker compiles it.

Grammar compilers recurse and unroll in native code: a deep nesting overflows the stack of the whole
worker, and a large repetition takes its memory or minutes of its time.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from amoeba_sglang.frontend.values import refuse, require_text

MOST_CHARACTERS = 65_536
MOST_DEPTH = 64
# The product of all the counts in an expression, for they may be nested.
MOST_REPETITIONS = 10_000
# Of the counts of a schema, such as maxLength.
MOST_COUNT = 10_000

_OPEN, _CLOSED = "([{", ")]}"
_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")
# SGLang's word for any JSON.
_ANY = "$$ANY$$"
_COUNTED = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def require_grammar(field: str, name: str, text: str) -> None:
    """Raise InvalidRequest, which calls it `name`, if a grammar is too large to be compiled.

    `field`: "json_schema", "regex", "ebnf" or "structural_tag".
    """
    require_text(name, text, MOST_CHARACTERS)
    if field in ("json_schema", "structural_tag"):
        if text != _ANY:
            _require_schema(name, text)
    else:
        require_repetitions(name, text)


def require_repetitions(name: str, expression: str) -> None:
    """Raise InvalidRequest if an expression nests too deeply or repeats its parts too often."""
    depth = max(_depths(expression), default=0)
    if depth > MOST_DEPTH:
        raise refuse(name, expression, f"nests {depth} brackets, at most {MOST_DEPTH} are compiled")
    product = 1
    for counts in _COUNTS.findall(expression):
        # More digits than any bound has are no number to compute with.
        product *= max([1, *(int(count[:8]) for count in counts if count)])
    if product > MOST_REPETITIONS:
        raise refuse(
            name,
            expression,
            f"the product of its repetition counts is more than {MOST_REPETITIONS}",
        )


def _depths(expression: str) -> Iterator[int]:
    depth = 0
    escaped = False
    for char in expression:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in _OPEN:
            depth += 1
            yield depth
        elif char in _CLOSED:
            depth -= 1


def _require_schema(name: str, text: str) -> None:
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise refuse(name, text, f"is no JSON: {error}") from None
    except RecursionError:
        raise refuse(name, text, f"at most {MOST_DEPTH} levels are compiled") from None
    _require_node(name, text, schema, 0)


def _require_node(name: str, text: str, node: Any, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise refuse(name, text, f"at most {MOST_DEPTH} levels are compiled")
    children: list[Any] = []
    if isinstance(node, dict):
        for key in _COUNTED:
            count = node.get(key)
            if isinstance(count, int | float) and not 0 <= count <= MOST_COUNT:
                raise refuse(f"{name}: {key}", count, f"must be from 0 to {MOST_COUNT}")
        for key in ("pattern", "regex", "grammar", "ebnf"):
            if isinstance(node.get(key), str):
                require_repetitions(f"{name}: {key}", node[key])
        children = list(node.values())
    elif isinstance(node, list):
        children = node
    for child in children:
        _require_node(name, text, child, depth + 1)
