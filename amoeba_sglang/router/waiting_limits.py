"""How many requests may wait in the router, and for how long: SGLang's limits for its workers."""

from __future__ import annotations

from dataclasses import dataclass

from sglang.srt.environ import envs


@dataclass(frozen=True)
class WaitingLimits:
    """`most_queued`: requests that may wait at one worker (`--max-queued-requests`). `seconds`:
    after which one that waits is answered (SGLANG_REQ_WAITING_TIMEOUT). None for no limit.

    Whoever waits here would wait at the anchor of an instance there, so there may be as many as at
    all of the anchors that could hold them.
    """

    workers: int
    most_queued: int | None = None
    seconds: float | None = None

    @classmethod
    def of_server(cls, workers: int, most_queued: int | None) -> WaitingLimits:
        seconds = envs.SGLANG_REQ_WAITING_TIMEOUT.get()
        return cls(workers, most_queued, seconds if seconds > 0 else None)

    def when_full(self, waiting: int, degree: int) -> str | None:
        """Why no further request may wait for an instance of `degree` if `waiting` do; or None."""
        if self.most_queued is None:
            return None
        anchors = self.workers // degree
        if waiting < self.most_queued * anchors:
            return None
        return (
            f"The request queue is full: {waiting} requests wait for an instance of degree "
            f"{degree}, and --max-queued-requests {self.most_queued} lets {self.most_queued} wait "
            f"at each of {anchors}; try later"
        )

    def when_late(self, since: float, now: float) -> str | None:
        """Why a request that waits since `since` must not wait longer; or None."""
        if self.seconds is None or now - since <= self.seconds:
            return None
        return (
            f"Request waiting timeout reached: waited {now - since:.1f} s, "
            f"SGLANG_REQ_WAITING_TIMEOUT is {self.seconds:g} s"
        )
