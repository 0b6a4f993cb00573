"""When the emulated device of a worker is done with what it was given."""

from amoeba_sglang.clock import Clock


class Timeline:
    """Work is launched without waiting and runs in turn, as on a device with one stream.

    Times are seconds of `clock`. `late_seconds`: those in which the device had nothing to run
    although its worker was not at rest. The worker's own Python is not emulated, so this is what
    the clock's dilation is too small for.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._resting = True
        self.free_at = clock.now()
        self.busy_seconds = self.late_seconds = 0.0

    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Let `seconds` of the clock pass beside what the device runs."""
        self._clock.sleep(seconds)

    def launch(self, seconds: float) -> None:
        """Run `seconds` of work after all that was launched before."""
        late = self._clock.now() - self.free_at
        if late > 0:
            if not self._resting:
                self.late_seconds += late
            self.free_at += late
        self._resting = False
        self.busy_seconds += seconds
        self.free_at += seconds

    def wait(self, until: float) -> None:
        """Return when the clock shows `until`."""
        left = until - self._clock.now()
        if left > 0:
            self._clock.sleep(left)

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
