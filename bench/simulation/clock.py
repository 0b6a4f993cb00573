"""The events of a simulation, in order of their time."""

import heapq
import itertools
import math
from collections.abc import Callable

from bench.simulation.instance import Instance


class Clock:
    """The events of all hosts, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[float], None], Instance | None, int]] = []
        self._numbers = itertools.count()

    def at(
        self,
        time: float,
        action: Callable[[float], None],
        instance: Instance | None = None,
    ) -> None:
        """Call `action(time)` then, unless the instance has begun another step by then."""
        epoch = 0 if instance is None else instance.epoch
        heapq.heappush(self._events, (time, next(self._numbers), action, instance, epoch))

    @property
    def next_time(self) -> float:
        return self._events[0][0] if self._events else math.inf

    def run_next(self) -> None:
        time, _, action, instance, epoch = heapq.heappop(self._events)
        if instance is None or instance.epoch == epoch:
            action(time)
