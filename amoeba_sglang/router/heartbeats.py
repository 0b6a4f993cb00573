"""Notices a worker that is alive but does not run (SIGSTOP, a stuck machine)."""

from __future__ import annotations


class Heartbeats:
    """When each worker was last heard of. Times are seconds of one monotonic clock."""

    def __init__(self, workers: int, timeout_s: float, now: float) -> None:
        self._timeout_s = timeout_s
        self._last = [now] * workers

    def beat(self, rank: int, now: float) -> None:
        self._last[rank] = now

    def frozen(self, now: float) -> list[int]:
        """The ranks that have been silent for longer than the timeout."""
        return [rank for rank, last in enumerate(self._last) if now - last > self._timeout_s]
