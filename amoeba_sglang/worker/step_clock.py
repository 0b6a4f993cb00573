"""How long steps take here, and when each worker is done with its present one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

# As many as pass from PREPARE to lock-step.
_STEPS_REMEMBERED = 4
# Then a worker waits whatever the others do, so that two of them cannot put each other off.
MOST_DEFERRALS = 2


class StepClock:
    """One worker's clock. `ends`: int64 [workers], shared between them: when the present step of
    each will probably end, in microseconds of the host's monotonic clock; 0 while it has none."""

    def __init__(
        self, ends: np.ndarray, rank: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ends, self._rank, self._now = ends, rank, now
        self._started: float | None = None
        self._seconds: deque[float] = deque([0.0], maxlen=_STEPS_REMEMBERED)
        self._deferrals = 0

    @property
    def slowest_seconds(self) -> float:
        """Of the last few steps, from one plan to the next."""
        return max(self._seconds)

    def tick(self, runs: bool) -> None:
        """A step is planned; `runs`: and has rows."""
        now = self._now()
        if self._started is not None:
            self._seconds.append(now - self._started)
        self._started = now if runs else None
        self._ends[self._rank] = round(1e6 * (now + self._seconds[-1])) if runs else 0

    def should_defer(self, ranks: Sequence[int]) -> bool:
        """Whether to run the planned step before meeting `ranks`, which have steps to finish.

        Two workers that step alone meet somewhere in the step of one of them: the other one waits,
        at most half of a step if it is the one with less to wait for.
        """
        now = 1e6 * self._now()
        wait = max((self._ends[rank] - now for rank in ranks if rank != self._rank), default=0)
        if self._started is None or self._deferrals == MOST_DEFERRALS:
            return False
        if wait <= 1e6 * self._seconds[-1] / 2:
            return False
        self._deferrals += 1
        return True

    def meet(self) -> None:
        """This worker waits for its peers from now on."""
        self._ends[self._rank], self._deferrals = 0, 0
