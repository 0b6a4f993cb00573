"""The clock that a process takes its times from, and sleeps by."""

import time


class Clock:
    """Seconds since the host's start; on an emulated server, emulated ones.

    `dilation`: real seconds of each. Router and workers are given their clock, so that a test can
    give them one of its own.
    """

    def __init__(self, dilation: float = 1.0) -> None:
        self._dilation = dilation

    def now(self) -> float:
        return time.monotonic() / self._dilation

    def since(self, wall: float) -> float:
        """Seconds of `now` that have passed since a moment of `wall`."""
        return (self.wall() - wall) / self._dilation

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of `now`."""
        time.sleep(seconds * self._dilation)

    def wall(self) -> float:
        """Real seconds since the epoch, which SGLang's own timestamps count."""
        return time.time()
