"""Flushes the caches of all workers or of none.

A worker flushes only when it is idle. Each for itself, some would flush and others not. So the
router first asks all of them, and takes no request until they have answered: a worker that is idle
and gets nothing stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.managers.io_struct import FlushCacheReqInput, FlushCacheReqOutput

from amoeba_sglang.messages import IdleQuestion, WorkerReport

# A worker whose last request has just ended needs a step or two until it is idle.
_LEAST_SECONDS = 0.25
_RETRY_SECONDS = 0.05
# For answers. An idle worker answers in milliseconds, and requests wait meanwhile.
_ANSWER_SECONDS = 1.0


class CacheFlush:
    """The flush that is asked for now, if any.

    send: to all workers. receive: reports that come within some milliseconds, each to `take`.
    answer: to the front end. busy: why, as far as the router knows, not all workers are idle.
    now: of the server's clock. `paused`: whether generation is. Then what waits holds no KV, and
    does not stop a flush.
    """

    def __init__(
        self,
        workers: int,
        send: Callable[[Any], None],
        receive: Callable[[int], None],
        answer: Callable[[FlushCacheReqOutput], None],
        busy: Callable[[bool], str | None],
        now: Callable[[], float],
    ) -> None:
        self.paused = False
        self._workers, self._now = workers, now
        self._send, self._receive, self._answer, self._busy = send, receive, answer, busy
        self._deadline: float | None = None
        self._retry = 0.0
        self._question = 0
        self._idle: dict[int, bool] = {}

    def start(self, request: FlushCacheReqInput) -> None:
        """Flush at once, or as soon as all are idle within the time that the request gives."""
        # The front end asks for one at a time.
        assert self._deadline is None
        timeout = max(request.timeout_s or 0.0, _LEAST_SECONDS)
        self._deadline, self._retry = self._now() + timeout, 0.0
        self.tick()

    def tick(self) -> None:
        """Try again, and give up when the time is over."""
        now = self._now()
        if self._deadline is None or (now < self._retry and now < self._deadline):
            return
        self._retry = now + _RETRY_SECONDS
        reason = self._busy(self.paused) or self._ask() or self._busy(self.paused)
        if reason is None:
            self._deadline = None
            # Each worker answers for itself.
            self._send(FlushCacheReqInput())
        elif now >= self._deadline:
            self._deadline = None
            message = f"No cache was flushed, since not all workers were idle in time: {reason}."
            for _ in range(self._workers):
                self._answer(FlushCacheReqOutput(success=False, message=message))

    def take(self, report: WorkerReport) -> None:
        """A worker's answer to an IdleQuestion; a late one is of no use."""
        if report.body["number"] == self._question:
            self._idle[report.rank] = report.body["idle"]

    def _ask(self) -> str | None:
        """Which ranks are not idle, or do not say in time; None if all are."""
        self._question += 1
        self._idle = {}
        self._send(IdleQuestion(number=self._question))
        deadline = self._now() + _ANSWER_SECONDS
        while len(self._idle) < self._workers and self._now() < deadline:
            self._receive(20)
        silent = sorted(set(range(self._workers)) - self._idle.keys())
        busy = [rank for rank, idle in sorted(self._idle.items()) if not idle]
        if busy:
            return f"ranks {busy} are busy"
        return f"ranks {silent} did not answer within {_ANSWER_SECONDS:g} s" if silent else None
