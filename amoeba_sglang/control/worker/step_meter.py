"""What steps cost here, added up so that the router can fit it."""

from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.reports import StepSums

# Sums that are younger than this are not worth a report.
REPORT_SECONDS = 1.0
# No step is shorter, whatever a clock says.
_SHORTEST_S = 1e-6


class StepMeter:
    """Times the steps of one instance: from one launch to the next, without gaps between them.

    `lag`: steps that are still running when the next one is launched. `now`: clock in seconds.
    """

    def __init__(self, lag: int, now: Callable[[], float]) -> None:
        self._lag, self._now = lag, now
        self._running: deque[tuple[int, StepWork]] = deque()
        self._launched = self._reported = now()
        self._counts: Counter[int] = Counter()
        self._sums: dict[int, np.ndarray] = {}

    def launch(self, degree: int, work: StepWork) -> None:
        """A step of an instance of `degree` starts."""
        now = self._now()
        if len(self._running) > self._lag:
            self._add(*self._running.popleft(), now - self._launched)
        self._running.append((degree, work))
        self._launched = now

    def rest(self) -> None:
        """No step follows at once, or none that says what its degree costs."""
        self._running.clear()

    def take(self) -> dict[int, StepSums] | None:
        """What has been added up since the last report, by degree, if it is time for another."""
        now = self._now()
        if not self._sums or now - self._reported < REPORT_SECONDS:
            return None
        taken = {
            degree: StepSums(self._counts[degree], sums.tolist())
            for degree, sums in self._sums.items()
        }
        self._reported = now
        self._counts.clear()
        self._sums.clear()
        return taken

    def _add(self, degree: int, work: StepWork, seconds: float) -> None:
        # Relative to the time of the step, or prefills would be all that counts.
        row = features(work) / max(seconds, _SHORTEST_S)
        sums = self._sums.setdefault(degree, np.zeros((len(row) + 1, len(row))))
        sums[:-1] += np.outer(row, row)
        sums[-1] += row
        self._counts[degree] += 1


def features(work: StepWork) -> np.ndarray:
    """float64 [5]: 1 and the amounts that a StepCost multiplies, in the order of its fields."""
    return np.array(
        [
            1.0,
            work.decode_rows,
            work.prefill_tokens,
            work.context_tokens,
            work.prefill_context,
        ]
    )
