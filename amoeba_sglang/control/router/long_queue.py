"""Long requests that wait in the router for an instance that can hold them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from amoeba_sglang.control.policy.base import LongRequest
from amoeba_sglang.control.router.request import Request

# Of those waiting, as many as `GET /amoeba/state` shows.
_SHOWN = 16


@dataclass
class Waiting:
    """`long`: what the policy knows of the request; `reason`: why it waits."""

    request: Request
    long: LongRequest
    reason: str = ""


class LongQueue:
    """First come, first served among requests of one degree."""

    def __init__(self) -> None:
        self._by_degree: dict[int, dict[str, Waiting]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_degree.values()))

    def add(self, waiting: Waiting) -> None:
        queue = self._by_degree.setdefault(waiting.long.degree, {})
        queue[waiting.long.request_id] = waiting

    def heads(self) -> list[Waiting]:
        """The oldest of every degree, oldest first."""
        heads = filter(None, map(self.head, self._by_degree))
        return sorted(heads, key=lambda waiting: waiting.long.since)

    def head(self, degree: int) -> Waiting | None:
        """The oldest of a degree."""
        return next(iter(self._by_degree[degree].values()), None)

    def remove(self, waiting: Waiting) -> None:
        del self._by_degree[waiting.long.degree][waiting.long.request_id]

    def take(self, chosen: Callable[[Waiting], bool]) -> list[Waiting]:
        """Remove and return all that `chosen` says, oldest first."""
        taken = sorted(filter(chosen, self), key=lambda waiting: waiting.long.since)
        for waiting in taken:
            self.remove(waiting)
        return taken

    def waiting_for(self, degree: int) -> int:
        """How many wait for an instance of `degree`."""
        return len(self._by_degree.get(degree, ()))

    def expired(self, now: float, seconds: float) -> list[Waiting]:
        """Remove and return those that have waited for longer than `seconds`."""
        found = []
        for queue in self._by_degree.values():
            while queue and now - (first := next(iter(queue.values()))).long.since > seconds:
                del queue[first.long.request_id]
                found.append(first)
        return found

    def describe(self, now: float) -> dict[str, Any]:
        """For `GET /amoeba/state`."""
        shown = sorted(self, key=lambda waiting: waiting.long.since)[:_SHOWN]
        return {
            "count": len(self),
            "oldest": [
                {
                    "rid": waiting.long.request_id,
                    "tokens": waiting.long.tokens,
                    "degree": waiting.long.degree,
                    "seconds": round(now - waiting.long.since, 3),
                    "reason": waiting.reason or "behind others of its degree",
                }
                for waiting in shown
            ],
        }

    def __iter__(self) -> Iterator[Waiting]:
        for queue in self._by_degree.values():
            yield from queue.values()
