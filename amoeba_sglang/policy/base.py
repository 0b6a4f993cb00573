"""What a policy sees and what it decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerLoad:
    """One worker: requests running and queued, and the tokens that they hold or will prefill."""

    running: int = 0
    queued: int = 0
    tokens: int = 0

    @property
    def requests(self) -> int:
        return self.running + self.queued


@dataclass(frozen=True)
class RequestSize:
    """Prompt tokens, and the most output tokens asked for; None if the request names no limit."""

    prompt_tokens: int
    output_tokens: int | None


@dataclass(frozen=True)
class View:
    """The server as a policy sees it: the instances (tuples of ranks), the loads by rank, the
    number of requests placed so far, and the ranks that can hold the request, at least one."""

    instances: tuple[tuple[int, ...], ...]
    loads: tuple[WorkerLoad, ...]
    placed: int
    able: tuple[int, ...]

    def __post_init__(self) -> None:
        ranks = sorted(rank for instance in self.instances for rank in instance)
        assert ranks == list(range(len(self.loads))), (self.instances, len(self.loads))
        assert self.able and set(self.able) <= set(ranks), (self.able, ranks)


@dataclass(frozen=True)
class Decision:
    """The home of a request, and why, for logs."""

    rank: int
    reason: str


Policy = Callable[[RequestSize, View], Decision]
