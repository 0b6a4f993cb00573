"""The list of hostile requests: the same for the same routes, seed and number.

First every field of every route once and every request made by hand that there is room for, then
fields by weight, each time with a kind of value that the field has had least often.
"""

import copy
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.hostile import bodies
from bench.hostile.bomb import Bomb
from bench.hostile.bombs import make_bombs
from bench.hostile.cases import (
    ABSENT,
    Case,
    Expect,
    Mutation,
    Value,
    encode,
    has_place,
    is_plain_json,
    put,
)
from bench.hostile.ranges import SYNONYMS, Bounds, known_ranges
from bench.hostile.schema import Field, Route
from bench.hostile.values import values_for

_BOMBS = 0.25
_ALONE = 0.65
_STREAMED = 0.2
_KINDS_AT_RISK = ("below", "above", "type", "huge", "odd", "at", "absent")
_JSON = {"Content-Type": "application/json"}
_STREAMING = ("/generate", "/v1/completions", "/v1/chat/completions")


def choose_routes(routes: Iterable[Route], only: str = "") -> list[Route]:
    """Those that take fields and are not excluded; of a path with several methods, one."""
    chosen: dict[str, Route] = {}
    for route in routes:
        wanted = route.path not in bodies.EXCLUDED and (not only or route.path == only)
        if wanted and route.fields and (route.method == "POST" or route.path not in chosen):
            chosen[route.path] = route
    return list(chosen.values())


@dataclass(frozen=True)
class _Place:
    """A field of a route with its values by kind."""

    route: Route
    field: Field
    values: Mapping[str, Sequence[Value]]


_LIMITS = ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens",
           "num_predict")  # fmt: skip
# Objects whose fields are all known.
_STRICT = ("sampling_params", "server_args")


class Generator:
    """Makes cases from routes; `missed` are fields that there was no room for."""

    def __init__(
        self, routes: Sequence[Route], bounds: Bounds, seed: int, only: str = "", model: str = ""
    ) -> None:
        self._rng = random.Random(seed)
        self._bounds, self._only = bounds, only
        self._model = model or bodies.MODEL_NAME
        self._routes = choose_routes(routes, only)
        self._places = [place for route in self._routes for place in self._places_of(route)]
        self._of_route = {
            route.path: [place for place in self._places if place.route is route]
            for route in self._routes
        }
        self._used: Counter[tuple[str, str]] = Counter()
        self.missed: list[str] = []

    def make(self, number: int) -> list[Case]:
        """`number` cases in random order."""
        rng = self._rng
        bombs = [b for b in make_bombs(self._bounds) if not self._only or b.route == self._only]
        rng.shuffle(bombs)
        cases = [self._of_bomb(bomb) for bomb in bombs[: int(number * _BOMBS)]]
        first = list(self._places)
        rng.shuffle(first)
        room = number - len(cases)
        self.missed = [f"{p.route.path} {'.'.join(p.field.path)}" for p in first[room:]]
        cases += [self._mutate(place) for place in first[:room]]
        paths = list(self._of_route)
        weights = [bodies.WEIGHTS.get(path, 1) for path in paths]
        while paths and len(cases) < number:
            places = self._of_route[rng.choices(paths, weights)[0]]
            cases.append(self._mutate(rng.choice(places)))
        rng.shuffle(cases)
        return [_numbered(case, at) for at, case in enumerate(cases)]

    def _places_of(self, route: Route) -> list[_Place]:
        ranges = known_ranges(self._bounds)
        places = []
        for field in route.fields:
            if (route.path, field.path[0]) in bodies.HARMFUL:
                continue
            if len(field.path) > 1 and not self._has_parent(route, field):
                continue
            if field.path == ("options",):
                # Without a limit in them Ollama's routes make 2,048 tokens.
                continue
            by_kind: dict[str, list[Value]] = {}
            is_sent = any(field.path[0] in body for body in self._bodies(route))
            for value in values_for(field, self._bounds, ranges, is_sent):
                if field.name in _LIMITS and (value.value is None or value.value is ABSENT):
                    # Such a request makes tokens until its worker's memory ends.
                    continue
                by_kind.setdefault(value.kind, []).append(value)
            places.append(_Place(route, field, by_kind))
        return places

    def _has_parent(self, route: Route, field: Field) -> bool:
        bodies_with_it = [bodies.PARENTS, *self._bodies(route)]
        return any(has_place(body, field.path) for body in bodies_with_it)

    def _mutate(self, place: _Place) -> Case:
        """A case about `place`; sometimes with one or two other fields of the route changed too."""
        rng = self._rng
        more = 0 if rng.random() < _ALONE else rng.randint(1, 2)
        others = self._of_route[place.route.path]
        chosen = {place.field.path: place}
        for other in rng.sample(others, min(more, len(others))):
            apart = all(
                path[: len(other.field.path)] != other.field.path[: len(path)] for path in chosen
            )
            if apart:
                chosen[other.field.path] = other
        plain = copy.deepcopy(rng.choice(self._bodies(place.route)))
        if place.route.path in _STREAMING and rng.random() < _STREAMED:
            plain["stream"] = True
        body, mutations = plain, []
        for path, one in chosen.items():
            if len(path) > 1 and path[0] not in plain and path[0] in bodies.PARENTS:
                body = {path[0]: copy.deepcopy(bodies.PARENTS[path[0]]), **body}
            value = self._choose_value(one)
            try:
                body = put(body, path, value.value)
            except (IndexError, TypeError, AttributeError, ValueError):
                continue
            mutations.append(_mutation(one.route, one.field, value))
        return Case(
            0, place.route.method, place.route.path, url=place.route.path, headers=_JSON,
            body=encode(body), mutations=tuple(mutations), plain=plain, sent=body,
        )  # fmt: skip

    def _choose_value(self, place: _Place) -> Value:
        """One of the kind that this field has had least often."""
        field = f"{place.route.path} {'.'.join(place.field.path)}"
        kinds = [kind for kind in _KINDS_AT_RISK if kind in place.values]
        self._rng.shuffle(kinds)
        kind = min(kinds, key=lambda kind: (self._used[field, kind], kind == "absent"))
        self._used[field, kind] += 1
        return self._rng.choice(place.values[kind])

    def _bodies(self, route: Route) -> list[dict[str, Any]]:
        return [self._with_model(body) for body in bodies.BODIES.get(route.path, ({},))]

    def _with_model(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "model": self._model} if "model" in body else body

    def _of_bomb(self, bomb: Bomb) -> Case:
        sent = self._with_model(bomb.body) if isinstance(bomb.body, dict) else {}
        raw = bomb.body if isinstance(bomb.body, bytes) else encode(sent)
        value = Value("bomb", bomb.note, bomb.expect, bomb.same)
        names = bomb.names if is_plain_json(bomb.body) else (*bomb.names, "json")
        names = (*names, *SYNONYMS.get(bomb.names[0], ()))
        mutation = Mutation((bomb.names[0],), value, names)
        plain = self._with_model(bodies.BODIES.get(bomb.route, ({},))[0]) if sent else {}
        headers = _JSON if bomb.headers is None else bomb.headers
        return Case(
            0, bomb.method, bomb.route, url=bomb.url or bomb.route, headers=headers, body=raw,
            mutations=(mutation,), plain=plain, sent=sent, note=bomb.note,
        )  # fmt: skip


def _mutation(route: Route, field: Field, value: Value) -> Mutation:
    parts = [part for part in field.path if not part.isdigit()]
    names = (*reversed(parts), *SYNONYMS.get(field.name, ()))
    if not is_plain_json(value.value):
        names = (*names, "json")
    # Where a required field is left out, its route says what it needs.
    expect = value.expect
    if value.value is ABSENT and field.required:
        expect = Expect.REFUSE
    is_vague = len(field.path) > 1 and field.path[0] not in _STRICT
    if expect is Expect.REFUSE and is_vague and value.kind not in ("below", "above"):
        # One of several schemas may know it, or none looks at it.
        expect = Expect.EITHER
    if expect is Expect.SERVE and route.path not in bodies.GENERATING:
        expect = Expect.EITHER
    return Mutation(field.path, Value(value.kind, value.value, expect, value.same), names)


def _numbered(case: Case, number: int) -> Case:
    return replace(case, number=number)
