"""When the emulated device of a worker is done with what it was given."""

from __future__ import annotations

import time
from collections.abc import Callable


class Timeline:
    """Work is launched without waiting and runs in turn, as on a device with one stream.

    `dilation`: seconds of the clock `now` for each emulated second. `late_seconds`: emulated ones
    in which the device had nothing to run although its worker was not at rest. The worker's own
    Python is not emulated, so this is what the dilation is too small for.
    """

    def __init__(
        self,
        dilation: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._dilation, self._now, self._sleep = dilation, now, sleep
        self._resting = True
        self.free_at = now()
        self.busy_seconds = self.late_seconds = 0.0

    def launch(self, seconds: float) -> None:
        """Run emulated `seconds` of work after all that was launched before."""
        late = self._now() - self.free_at
        if late > 0:
            if not self._resting:
                self.late_seconds += late / self._dilation
            self.free_at += late
        self._resting = False
        self.busy_seconds += seconds
        self.free_at += seconds * self._dilation

    def wait(self, until: float) -> None:
        """Return when the clock shows `until`."""
        left = until - self._now()
        if left > 0:
            self._sleep(left)

    def synchronize(self) -> None:
        """Return when all that was launched has run."""
        self.wait(self.free_at)

    def rest(self) -> None:
        """The worker has nothing to run."""
        self._resting = True


class Launched:
    """An event of upstream's kind: what was launched on a timeline until now."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._end = timeline, timeline.free_at

    def synchronize(self) -> None:
        self._timeline.wait(self._end)
