"""What the state machine of transformations asks the router to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """Send this phase ("prepare", "commit", "abort") to every one of `ranks`."""

    phase: str
    operation_id: str
    epoch: int
    ranks: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Answer the HTTP request `waiter`."""

    waiter: str
    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """An operation ended; `record` is its entry in the history, for metrics and logs."""

    record: dict[str, Any]


@dataclass(frozen=True)
class Stuck:
    """A committed operation did not end in time. There is no way back: the server must end."""

    reason: str


Effect = Order | Answer | Finished | Stuck
