"""Requests that no single worker can hold, under a policy that changes the layout."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from amoeba_sglang.messages import WorkerReport
from amoeba_sglang.policy import Decision, LongRequest, RequestSize, WorkerLoad
from amoeba_sglang.router.layout_keeper import LayoutKeeper
from amoeba_sglang.router.long_queue import MOST_SECONDS, MOST_WAITING, Waiting
from amoeba_sglang.router.waiting_limits import WaitingLimits


class LongRequests:
    """They wait for room, which the keeper's rules make; none is dropped without an answer.

    send: to a rank. refuse: with a reason and an HTTP status. able: ranks that can hold a size now
    and after the running transformation. loads: by rank. limits: of those that wait.
    """

    def __init__(
        self,
        keeper: LayoutKeeper,
        send: Callable[[int, Any], None],
        refuse: Callable[[Any, str, HTTPStatus], None],
        able: Callable[[RequestSize], tuple[int, ...]],
        loads: Callable[[], tuple[WorkerLoad, ...]],
        limits: WaitingLimits,
    ) -> None:
        self.keeper, self._limits = keeper, limits
        self._send, self._refuse, self._able, self._loads = send, refuse, able, loads

    def arrive(self, request: Any, size: RequestSize, degree: int, now: float) -> None:
        """A request that needs an instance of `degree`."""
        queue = self.keeper.queue
        reason = self._limits.when_full(queue.waiting_for(degree), degree)
        if len(queue) >= MOST_WAITING:
            reason = f"{MOST_WAITING} requests that need merged instances wait already; try later"
        if reason is not None:
            self._refuse(request, reason, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        tokens = size.prompt_tokens + (size.output_tokens or 0)
        turn = self.keeper.arrivals
        long = LongRequest(request.rid, tokens, degree, now, size.prompt_tokens, turn)
        queue.add(Waiting(request, long))
        self.admit(now)

    def admit(self, now: float) -> None:
        """Send all that have room now; the first of a degree that has none stops the others."""
        for head in self.keeper.queue.heads():
            waiting: Waiting | None = head
            while waiting is not None and self._admit_one(waiting, now):
                self.keeper.queue.remove(waiting)
                degree = waiting.long.degree
                heads = self.keeper.queue.heads()
                waiting = next((w for w in heads if w.long.degree == degree), None)

    def _admit_one(self, waiting: Waiting, now: float) -> bool:
        request = waiting.request
        able = self._able(size_of(request))
        decision = self.keeper.admit(waiting.long, self._loads(), able, now)
        if isinstance(decision, Decision):
            self._send(decision.rank, request)
            return True
        waiting.reason = decision.reason
        return False

    def report(self, report: WorkerReport, now: float) -> None:
        """A worker names the long requests that it has."""
        body = report.body
        self.keeper.longs.report(report.rank, body["request_ids"], body["ended"], now)
        self.admit(now)

    def no_longer_long(self) -> list[Any]:
        """Take out what waits although instances of the base degree hold it."""

        def is_short(waiting: Waiting) -> bool:
            fits_base = waiting.long.degree <= self.keeper.base
            return fits_base and bool(self._able(size_of(waiting.request)))

        return [waiting.request for waiting in self.keeper.queue.take(is_short)]

    def expire(self, now: float) -> None:
        """Answer those that have waited too long."""
        most = min(MOST_SECONDS, self._limits.seconds or MOST_SECONDS)
        for waiting in self.keeper.queue.expired(now, most):
            long = waiting.long
            reason = (
                f"waited {most:g} s for an instance of degree {long.degree} for {long.tokens} "
                f"tokens: {waiting.reason}"
            )
            late = self._limits.when_late(long.since, now)
            if late is not None:
                reason = f"{late}; {reason}"
            self._refuse(waiting.request, reason, HTTPStatus.SERVICE_UNAVAILABLE)
        self.keeper.longs.forget_unseen(now)


def size_of(request: Any) -> RequestSize:
    """Of what the tokenizer sends."""
    return RequestSize(len(request.input_ids or ()), request.sampling_params.max_new_tokens)
