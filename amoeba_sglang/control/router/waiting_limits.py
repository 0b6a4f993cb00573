"""How many requests may wait in the router, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WaitingLimits:
    """`most_queued`: requests that may wait at one worker (`--max-queued-requests`). `seconds`:
    after which one that waits is answered (SGLANG_REQ_WAITING_TIMEOUT). None for no limit of
    SGLang's; `most_in_all` and `most_seconds` hold without them.

    Whoever waits here would wait at the anchor of an instance there, so there may be as many as at
    all of the anchors that could hold them.
    """

    workers: int
    most_queued: int | None = None
    seconds: float | None = None
    most_in_all: int = 10_000
    most_seconds: float = 600.0

    def when_full(self, waiting: int, in_all: int, degree: int) -> str | None:
        """Why no further request may wait for an instance of `degree` if `waiting` do, and `in_all`
        for any; or None."""
        if in_all >= self.most_in_all:
            return f"{in_all} requests that need merged instances wait already; try later"
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

    @property
    def longest_wait_s(self) -> float:
        """Seconds after which one that waits is answered."""
        return min(self.most_seconds, self.seconds or self.most_seconds)

    def when_late(self, waited: float) -> str:
        """How to begin the answer to one that has waited for so many seconds, which is too long."""
        if self.seconds is None or waited <= self.seconds:
            return ""
        return (
            f"Request waiting timeout reached: waited {waited:.1f} s, "
            f"SGLANG_REQ_WAITING_TIMEOUT is {self.seconds:g} s; "
        )
