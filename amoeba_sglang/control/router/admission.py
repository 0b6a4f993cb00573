"""Where every request goes: to a worker, to those that wait, or back with the reason."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.policy.base import Decision, LongRequest, RequestSize, View
from amoeba_sglang.control.policy.prefix_book import PrefixBook
from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.effects import Refuse, Send
from amoeba_sglang.control.router.layout_keeper import FixedLayout
from amoeba_sglang.control.router.limits import fits, rank_refusal
from amoeba_sglang.control.router.long_queue import LongQueue, Waiting
from amoeba_sglang.control.router.request import Request
from amoeba_sglang.control.router.terms import Terms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wait:
    """A request waits at the desk, and why."""

    reason: str


class Admission:
    """Sends requests by a policy. None that waits is dropped without an answer."""

    def __init__(self, terms: Terms, rules: FixedLayout, books: Books) -> None:
        self._terms, self._rules, self._books = terms, rules, books
        self._placed = 0
        # What every rank holds in these two layouts, which change far more rarely than requests
        # come.
        self._promised_in: tuple[Layout, Layout] | None = None
        self._promised: tuple[int, ...] = ()
        self._prefixes = PrefixBook()

    def submit(self, request: Request, now: float) -> Send | Wait | Refuse:
        """Find a home for a request that has come, or comes again."""
        size, degree = request.size, self.degree_of(request)
        if request.rank is not None and not 0 <= request.rank < self._terms.workers:
            last = self._terms.workers - 1
            return _bad(request, f"routed_dp_rank {request.rank} is not in 0..{last}")
        able = self._able_ranks(size)
        if request.rank is not None:
            able = tuple(rank for rank in able if rank == request.rank)
        elif degree is not None and self._rules.is_for_rules(degree, able):
            return self._queue_up(request, degree, now)
        if able:
            rank = able[0] if request.rank is not None else self._choose(request, able)
            return self._send(rank, request, now)
        if degree is not None and self._books.operations.running is not None:
            reason = "the end of a transformation decides whether it can be served"
            return self._wait(self._books.held, request, degree, reason, now)
        limits = self._rules.limits(self._terms.capacity, self._books.operations.layout)
        refusal = limits.refusal(size.prompt_tokens, size.output_tokens)
        return _bad(request, refusal or self._rank_refusal(request))

    def degree_of(self, request: Request) -> int | None:
        """The smallest degree that holds a request; None if none does."""
        capacity = self._terms.capacity
        return capacity.needed_degree(request.prompt_tokens, request.output_tokens)

    def admit(self, now: float) -> list[Send]:
        """Send all that have room now; the first of a degree that has none stops the others."""
        sent: list[Send] = []
        for head in self._books.queue.heads():
            waiting: Waiting | None = head
            while waiting is not None and (send := self._admit_one(waiting, now)):
                sent.append(send)
                waiting = self._books.queue.head(head.long.degree)
        return sent

    def look_again(self, now: float) -> list[Send | Refuse]:
        """An operation has ended: see to what waited to know how."""
        return self._submit_again(self._books.held.take(lambda waiting: True), now)

    def place_short(self, now: float) -> list[Send | Refuse]:
        """See to what waits although instances of the base degree hold it by now."""

        def is_short(waiting: Waiting) -> bool:
            fits_base = waiting.long.degree <= self._rules.base
            return fits_base and bool(self._able_ranks(waiting.request.size))

        return self._submit_again(self._books.queue.take(is_short), now)

    def expire(self, now: float) -> list[Refuse]:
        """Answer what has waited too long."""
        limits, refused = self._terms.waiting, []
        for line in (self._books.queue, self._books.held):
            for waiting in line.expired(now, limits.longest_wait_s):
                long = waiting.long
                reason = (
                    f"{limits.when_late(now - long.since)}waited {now - long.since:.0f} s for an "
                    f"instance of degree {long.degree} for {long.tokens} tokens: {waiting.reason}"
                )
                refused.append(_unavailable(waiting.request, reason))
        return refused

    def abort(self, names: Callable[[str], bool]) -> list[Request]:
        """Take out those that wait: no worker knows them."""
        return [
            waiting.request
            for line in (self._books.held, self._books.queue)
            for waiting in line.take(lambda waiting: names(waiting.request.rid))
        ]

    def _queue_up(self, request: Request, degree: int, now: float) -> Send | Wait | Refuse:
        answer = self._wait(self._books.queue, request, degree, "", now)
        head = self._books.queue.head(degree)
        if isinstance(answer, Wait) and head is not None and head.request is request:
            return self._admit_one(head, now) or Wait(head.reason)
        return answer

    def _wait(
        self, line: LongQueue, request: Request, degree: int, reason: str, now: float
    ) -> Wait | Refuse:
        full = self._terms.waiting.when_full(line.waiting_for(degree), len(line), degree)
        if full is not None:
            return _unavailable(request, full)
        long = LongRequest(
            request.rid, request.tokens, degree, since=now,
            prompt_tokens=request.prompt_tokens, turn=self._rules.arrivals,
        )  # fmt: skip
        line.add(Waiting(request, long, reason))
        return Wait(reason)

    def _submit_again(self, waiting: list[Waiting], now: float) -> list[Send | Refuse]:
        verdicts = [self.submit(one.request, now) for one in waiting]
        return [verdict for verdict in verdicts if not isinstance(verdict, Wait)]

    def _admit_one(self, waiting: Waiting, now: float) -> Send | None:
        able = self._able_ranks(waiting.request.size)
        decision = self._rules.admit(waiting.long, able, now)
        if isinstance(decision, Decision):
            self._books.queue.remove(waiting)
            return self._send(decision.rank, waiting.request, now)
        waiting.reason = decision.reason
        return None

    def _send(self, rank: int, request: Request, now: float) -> Send:
        self._books.loads.add(rank, request.prompt_tokens, now)
        degree = self.degree_of(request)
        if degree is not None and degree > 1 and not self._terms.truncates:
            self._books.longs.send(rank, request.rid, request.tokens, now)
        return Send(rank, request)

    def _able_ranks(self, size: RequestSize) -> tuple[int, ...]:
        """Ranks that can hold a request now and after the transformation that may be running."""
        if self._terms.truncates:
            return tuple(range(self._terms.workers))
        layouts = self._books.operations.layout, self._books.operations.target
        if layouts != self._promised_in:
            self._promised_in = layouts
            self._promised = self._terms.capacity.promised(*layouts)
        return tuple(
            rank
            for rank, tokens in enumerate(self._promised)
            if fits(size.prompt_tokens, size.output_tokens, tokens)
        )

    def _choose(self, request: Request, able: tuple[int, ...]) -> int:
        """The rank that the policy picks of those that can hold the request."""
        books, cached = self._books, self._prefixes.find(request.token_ids)
        view = View(
            books.operations.layout.instances, books.loads.loads, self._placed, able,
            reserved=self._rules.reserved, table=books.calibration.table, cached=cached,
        )  # fmt: skip
        decision = self._terms.policy.place(request.size, view)
        self._placed += 1
        self._prefixes.add(request.token_ids, decision.rank)
        logger.debug("request %s goes to %s", request.rid, decision)
        return decision.rank

    def _rank_refusal(self, request: Request) -> str:
        rank = request.rank
        assert rank is not None
        tokens = self._terms.capacity.by_rank(self._books.operations.layout)[rank]
        return rank_refusal(rank, request.prompt_tokens, request.output_tokens, tokens)


def _bad(request: Request, reason: str) -> Refuse:
    return Refuse(request, HTTPStatus.BAD_REQUEST, reason)


def _unavailable(request: Request, reason: str) -> Refuse:
    return Refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, reason)
