"""The body of `POST /amoeba/transform`, checked field by field."""

from __future__ import annotations

import itertools
import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from amoeba_sglang.errors import RequestError, show

_FIELDS = ("ranks", "degree", "operation_id", "wait")
_MAX_ID_LENGTH = 128
MAX_BODY_BYTES = 64 * 1024
# Messages between processes carry integers of 64 bits.
_MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class TransformRequest:
    """Run `ranks` at `degree`. Whether a layout allows that is for the router to say. `reason`: why
    a policy asks for it."""

    ranks: tuple[int, ...]
    degree: int
    operation_id: str
    wait: bool = True
    reason: str = "asked for"

    def same_change(self, other: TransformRequest) -> bool:
        """Whether both ask for the same layout; waiting or not is no part of that."""
        return (self.ranks, self.degree) == (other.ranks, other.degree)

    def to_body(self) -> dict[str, Any]:
        """As the dict that travels to the router."""
        fields = {name: value for name, value in asdict(self).items() if name in _FIELDS}
        return {**fields, "ranks": list(self.ranks)}

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> TransformRequest:
        """The inverse of `to_body`."""
        return cls(**{**body, "ranks": tuple(body["ranks"])})


def parse_transform(text: bytes) -> TransformRequest:
    """Read a JSON body; RequestError 400 with one line that names the field if it is unusable."""
    if len(text) > MAX_BODY_BYTES:
        raise _bad(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except ValueError as error:
        raise _bad(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _bad(f"the body must be a JSON object, not {_name(body)}")
    for name in body:
        if name not in _FIELDS:
            raise _bad(f"unknown field {show(name)}; known are {', '.join(_FIELDS)}")
    for name in ("ranks", "degree"):
        if name not in body:
            raise _bad(f"field {name!r} is missing")
    ranks, degree = body["ranks"], body["degree"]
    if not isinstance(ranks, list) or not all(type(rank) is int for rank in ranks):
        raise _bad(f"ranks must be a list of integers, not {show(ranks)}")
    if not ranks:
        raise _bad("ranks must not be empty")
    if any(low >= high for low, high in itertools.pairwise(ranks)):
        raise _bad(f"ranks must be ascending, without repetition, not {show(ranks)}")
    if not 0 <= ranks[0] <= ranks[-1] <= _MAX_NUMBER:
        raise _bad(f"ranks must be in 0..{_MAX_NUMBER}, not {show(ranks)}")
    if type(degree) is not int:
        raise _bad(f"degree must be an integer, not {show(degree)}")
    if not 1 <= degree <= _MAX_NUMBER:
        raise _bad(f"degree must be in 1..{_MAX_NUMBER}, not {show(degree)}")
    operation_id = body.get("operation_id")
    if operation_id is None:
        operation_id = uuid.uuid4().hex
    if not isinstance(operation_id, str) or not 0 < len(operation_id) <= _MAX_ID_LENGTH:
        raise _bad(f"operation_id must be a string of 1 to {_MAX_ID_LENGTH} characters")
    if not operation_id.isprintable():
        raise _bad(f"operation_id must have only printable characters, not {show(operation_id)}")
    wait = body.get("wait", True)
    if type(wait) is not bool:
        raise _bad(f"wait must be true or false, not {show(wait)}")
    return TransformRequest(tuple(ranks), degree, operation_id, wait)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _bad(message: str) -> RequestError:
    return RequestError(400, message)
