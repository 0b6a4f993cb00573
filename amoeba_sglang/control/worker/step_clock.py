"""How long steps take here, when each worker is done with its present one, and so who waits."""

import itertools
import statistics
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

# As many as pass from PREPARE to lock-step.
_STEPS_REMEMBERED = 4
# Of one of its own steps: the most that a worker waits before it meets the others, to be nearer to
# them then. Two such waits are felt less than one of twice the length.
MOST_DELAY = 0.25
# In place of the end of a step: the worker has rows and waits for its peers.
_WAITS = -1


class StepClock:
    """One worker's clock. `ends`: int64 [workers], shared between them: when the present step of
    each will probably end, in microseconds of the server's clock; 0 while it has none.

    Workers that step alone are each somewhere in a step when they are to meet. Seen as points on
    the circle of a step, they meet with the least waiting right before the widest gap between two
    of them: who comes earlier waits, and who has just passed steps once more.
    """

    def __init__(self, ends: np.ndarray, rank: int, now: Callable[[], float]) -> None:
        self._ends, self._rank, self._now = ends, rank, now
        self._started: float | None = None
        self._last: deque[float] = deque([0.0], maxlen=_STEPS_REMEMBERED)
        self._chunks: deque[float] = deque([0.0], maxlen=_STEPS_REMEMBERED)
        self._decodes: deque[float] = deque([0.0], maxlen=_STEPS_REMEMBERED)
        self._present = self._decodes
        self._deadline: float | None = None

    @property
    def slowest_seconds(self) -> float:
        """Of the last few steps, from one plan to the next."""
        return max(self._last)

    @property
    def plain_seconds(self) -> float:
        """Of a decode step here; 0 while there are no rows."""
        return 0.0 if self._started is None else statistics.median_high(self._decodes)

    @property
    def _expected(self) -> float:
        """Seconds of the present step: the median of its kind, or the last one's noise would be
        promised, and a decode step behind a prefill chunk would be expected to last as long."""
        return statistics.median_high(self._present)

    def tick(self, runs: bool, chunk: bool = False) -> None:
        """A step is planned; `runs`: and has rows, `chunk`: some of which are prefilled."""
        now = self._now()
        if self._started is not None:
            self._last.append(now - self._started)
            self._present.append(now - self._started)
        self._present = self._chunks if chunk else self._decodes
        self._started = now if runs else None
        self._promise(now)

    def delay(self, ranks: Sequence[int]) -> float:
        """Seconds that the planned step should wait, so that `ranks` are nearer to each other at
        the next one: half of what this worker would wait for them now."""
        waits = self._waits(ranks)
        # A prefill chunk is no nearer to the end of shorter steps when it starts late.
        if self._started is None or self._present is self._chunks or not waits:
            return 0.0
        return min(self._until_meeting(waits) / 2, MOST_DELAY * self._expected)

    def start_late(self) -> None:
        """The planned step starts only now."""
        self._started = now = self._now()
        self._promise(now)

    def should_defer(self, ranks: Sequence[int]) -> bool:
        """Whether to run the planned step before meeting `ranks`, which have steps to finish.

        Not for longer than the longest of these steps takes, or two workers could put each other
        off forever.
        """
        waits = self._waits(ranks)
        others_wait = any(self._ends[r] == _WAITS for r in ranks if r != self._rank)
        if self._started is None or not waits or others_wait:
            return False
        now = self._now()
        if self._deadline is None:
            self._deadline = now + max(waits)
        if now >= self._deadline:
            return False
        return self._until_meeting(waits) < max(waits)

    def meet(self) -> None:
        """This worker waits for its peers from now on."""
        self._ends[self._rank] = 0 if self._started is None else _WAITS
        self._deadline = None

    def _promise(self, now: float) -> None:
        ends = 0 if self._started is None else round(1e6 * (now + self._expected))
        self._ends[self._rank] = ends

    def _waits(self, ranks: Sequence[int]) -> list[float]:
        """Seconds to the end of the step of each of the others that has one, rising."""
        now = 1e6 * self._now()
        ends = (float(self._ends[rank]) for rank in ranks if rank != self._rank)
        return sorted((end - now) / 1e6 for end in ends if end > now)

    def _until_meeting(self, waits: list[float]) -> float:
        """Seconds to the end of the step after which nobody's ends for the longest time."""
        points = [0.0, *waits, max(self._expected, waits[-1])]
        # Of gaps that are equally wide the last, or everybody might leave the waiting to others.
        gaps = ((round(b - a, 4), a) for a, b in itertools.pairwise(points))
        return max(gaps)[1]
