"""What a request made by hand is."""

from dataclasses import dataclass
from typing import Any

from bench.hostile.bodies import BODIES
from bench.hostile.cases import Expect


@dataclass(frozen=True)
class Bomb:
    """A whole request; `body` is a dict to encode, or bytes as they stand."""

    route: str
    note: str
    body: dict[str, Any] | bytes
    names: tuple[str, ...]
    expect: Expect = Expect.EITHER
    method: str = "POST"
    headers: dict[str, str] | None = None
    url: str = ""
    same: bool = False


def generate_body(**params: Any) -> dict[str, Any]:
    """A plain body of /generate with some sampling parameters."""
    body = BODIES["/generate"][0]
    return {**body, "sampling_params": {**body["sampling_params"], **params}}
