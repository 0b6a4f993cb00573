"""What a hostile request is: its bytes, which fields it changes to what, and what must come of it.

Its JSON may hold what Python's cannot: `Raw` text goes into the body as it stands.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Path = tuple[str, ...]


class Expect(Enum):
    """What is right: a refusal; no refusal; a refusal at degree 1 and none merged; either, where
    nobody has said where the range ends."""

    REFUSE = "refuse"
    SERVE = "serve"
    SERVE_MERGED = "serve merged"
    EITHER = "either"


class _Absent:
    """Says that a field is left out."""

    def __repr__(self) -> str:
        return "(absent)"

    def __deepcopy__(self, memo: dict[int, Any]) -> _Absent:
        return self


ABSENT = _Absent()


@dataclass(frozen=True)
class Raw:
    """JSON text that no Python value gives: a hundred thousand brackets, two of a key."""

    text: str


@dataclass(frozen=True)
class Value:
    """One value for a field: `kind` is "at", "below", "above", "type", "absent", "huge" or "odd".

    same: a greedy output must be the same with it as without the field.
    """

    kind: str
    value: Any
    expect: Expect = Expect.EITHER
    same: bool = False


@dataclass(frozen=True)
class Mutation:
    """A value at a place of a body; names: by which of these a refusal may call the place."""

    path: Path
    value: Value
    names: tuple[str, ...]

    @property
    def field(self) -> str:
        return ".".join(self.path)

    def __str__(self) -> str:
        return f"{self.field} = {shorten(self.value.value)}"


@dataclass(frozen=True)
class Case:
    """One request. plain: the body without the mutations, what its text is compared with."""

    number: int
    method: str
    route: str
    url: str
    headers: dict[str, str]
    body: bytes
    mutations: tuple[Mutation, ...]
    plain: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def expect(self) -> Expect:
        """A value that must be refused decides; that all must be served has to be said by all."""
        wanted = {mutation.value.expect for mutation in self.mutations}
        if Expect.REFUSE in wanted:
            return Expect.REFUSE
        return wanted.pop() if len(wanted) == 1 else Expect.EITHER

    def expect_in(self, phase: str) -> Expect:
        """What is right in this phase of a run."""
        if self.expect is not Expect.SERVE_MERGED:
            return self.expect
        by_phase = {"degree 1": Expect.REFUSE, "merged": Expect.SERVE}
        return by_phase.get(phase, Expect.EITHER)

    @property
    def same(self) -> bool:
        return bool(self.mutations) and all(m.value.same for m in self.mutations)

    def describe(self) -> str:
        what = self.note or ", ".join(map(str, self.mutations))
        return f"{self.method} {self.url[:120]} {what}"


def encode(body: Any) -> bytes:
    """JSON of a body with `Raw` parts in it; NaN and infinities as the tokens that Python reads."""
    raws: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value.text)
            return f"@raw{len(raws) - 1}@"
        if isinstance(value, dict):
            return {key: mark(part) for key, part in value.items() if part is not ABSENT}
        if isinstance(value, list):
            return [mark(part) for part in value if part is not ABSENT]
        return value

    text = json.dumps(mark(body))
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text.encode()


def put(body: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of `body` with `value` at `path`; what lies between is made where it is missing."""
    changed = copy.deepcopy(body)
    place: Any = changed
    for step, following in zip(path, path[1:], strict=False):
        if isinstance(place, list):
            place = place[int(step)]
        else:
            empty: Any = [{}] if following.isdigit() else {}
            if not isinstance(place.get(step), (dict, list)):
                place[step] = empty
            place = place[step]
    if isinstance(place, list):
        place[int(path[-1])] = value
    else:
        place[path[-1]] = value
    return changed


def has_place(body: Any, path: Path) -> bool:
    """Whether all that `path` leads through is in `body`."""
    place = body
    for step in path[:-1]:
        if isinstance(place, list) and step.isdigit() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return False
    return isinstance(place, dict) or path[-1].isdigit()


def is_plain_json(value: Any) -> bool:
    """Whether every reader of JSON takes it: no lone surrogates, no NaN, nothing too deep."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False, default=lambda _: None).encode()
    except (ValueError, RecursionError):
        return False
    return not isinstance(value, Raw)


def shorten(value: Any, most: int = 100) -> str:
    """A value for a reader: its beginning and how long it is."""
    text = value.text if isinstance(value, Raw) else repr(value)
    return text if len(text) <= most else f"{text[: most - 30]}... ({len(text):,} characters)"
