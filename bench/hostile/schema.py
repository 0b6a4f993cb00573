"""Routes and their fields, from a server's /openapi.json and, where that is vague, Python types."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.hostile.cases import Path

KINDS = ("integer", "number", "string", "boolean", "array", "object", "null")
_DEEPEST = 4


@dataclass(frozen=True)
class Field:
    """A field of a body: which JSON types it takes (all where the schema does not say).

    items: types of an array's elements; choices: of an enumeration; low, high: as in the schema.
    """

    path: Path
    kinds: frozenset[str]
    items: frozenset[str] = frozenset()
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    required: bool = False

    @property
    def name(self) -> str:
        return next((part for part in reversed(self.path) if not part.isdigit()), "")

    @property
    def is_typed(self) -> bool:
        return bool(self.kinds)


@dataclass(frozen=True)
class Route:
    """One endpoint: the fields of its JSON body, the names of its query and path parameters."""

    method: str
    path: str
    fields: tuple[Field, ...] = ()
    query: tuple[str, ...] = ()
    in_path: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def read_routes(document: Mapping[str, Any], vague: Mapping[str, tuple[Field, ...]]) -> list[Route]:
    """All routes of an OpenAPI document. vague: route -> fields that it does not spell out."""
    reader = _Reader(document.get("components", {}).get("schemas", {}))
    routes = []
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            fields = {f.path: f for f in reader.fields(schema)} if schema else {}
            fields |= {field.path: field for field in vague.get(path, ())}
            parameters = operation.get("parameters", ())
            routes.append(
                Route(
                    method.upper(),
                    path,
                    tuple(fields.values()),
                    tuple(p["name"] for p in parameters if p["in"] == "query"),
                    tuple(p["name"] for p in parameters if p["in"] == "path"),
                )
            )
    return routes


class _Reader:
    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas

    def fields(
        self, schema: Mapping[str, Any], at: Path = (), seen: tuple[str, ...] = ()
    ) -> Iterator[Field]:
        """The fields of an object schema, and those of the objects within."""
        for variant, names in self._variants(schema, seen):
            required = variant.get("required", ())
            for name, part in variant.get("properties", {}).items():
                path = (*at, name)
                yield self._field(path, part, name in required)
                if len(path) < _DEEPEST:
                    yield from self.fields(part, path, names)
                    for inner, deeper in self._variants(part, names):
                        if isinstance(inner.get("items"), dict):
                            yield from self.fields(inner["items"], (*path, "0"), deeper)

    def _field(self, path: Path, schema: Mapping[str, Any], required: bool) -> Field:
        kinds: set[str] = set()
        items: set[str] = set()
        choices: list[Any] = []
        low = high = None
        for variant, _ in self._variants(schema, ()):
            kind = variant.get("type")
            if "enum" in variant or "const" in variant:
                choices += variant.get("enum", [variant.get("const")])
                kind = kind or "string"
            if kind is None:
                return Field(path, frozenset(), required=required)
            kinds.add(kind)
            low = variant.get("minimum", variant.get("exclusiveMinimum", low))
            high = variant.get("maximum", variant.get("exclusiveMaximum", high))
            for inner, _ in self._variants(variant.get("items") or {}, ()):
                items.add(inner.get("type", ""))
        items.discard("")
        return Field(
            path, frozenset(kinds), frozenset(items), tuple(choices), low=low, high=high,
            required=required,
        )  # fmt: skip

    def _variants(
        self, schema: Mapping[str, Any], seen: tuple[str, ...]
    ) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
        """The alternatives of a schema without references; a reference is followed once."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[-1]
            if name not in seen:
                yield from self._variants(self._schemas.get(name, {}), (*seen, name))
            return
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                for part in schema[key]:
                    yield from self._variants(part, seen)
                return
        yield schema, seen


def fields_of_hints(hints: Mapping[str, Any], at: Path = ()) -> tuple[Field, ...]:
    """Fields from Python annotations (`typing.get_type_hints`)."""
    return tuple(
        Field((*at, name), kinds_of(hint), _items_of(hint), _choices_of(hint))
        for name, hint in hints.items()
    )


_PYTHON_KINDS = {
    bool: "boolean", int: "integer", float: "number", str: "string", bytes: "string",
    type(None): "null", dict: "object", list: "array", set: "array", tuple: "array",
}  # fmt: skip


def kinds_of(hint: Any) -> frozenset[str]:
    """JSON types of an annotation; none where it says nothing."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return kinds_of(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        parts = [kinds_of(part) for part in typing.get_args(hint)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    if origin is typing.Literal:
        return frozenset(_PYTHON_KINDS[type(choice)] for choice in typing.get_args(hint))
    kind = _PYTHON_KINDS.get(origin or hint)
    if kind is None and isinstance(hint, type):
        kind = "object"
    return frozenset({kind}) if kind else frozenset()


def _items_of(hint: Any) -> frozenset[str]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated):
        return frozenset().union(*(_items_of(part) for part in typing.get_args(hint)))
    if typing.get_origin(hint) in (list, set):
        return kinds_of(typing.get_args(hint)[0])
    return frozenset()


def _choices_of(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return sum((_choices_of(part) for part in typing.get_args(hint)), ())
    return ()
