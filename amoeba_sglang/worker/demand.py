"""What a worker's requests ask of its pool before a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Demand:
    """The requests of a scheduler before a step.

    `waiting`: not yet admitted, in order. `live`: gives those that hold KV; asked for only when
    leases depend on them, since it costs a walk over all. `is_ending`: whether a request that holds
    KV will not compute much more, as it has been aborted.
    """

    waiting: Sequence[Any]
    live: Callable[[], list[Any]]
    is_ending: Callable[[Any], bool]
