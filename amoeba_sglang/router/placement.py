"""Where every request goes: to a worker, to those that wait, or back with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sglang.srt.managers.io_struct import AbortReq
from sglang.srt.runtime_context import get_serving

from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.policy import LayoutRules, Policy, RequestSize, View
from amoeba_sglang.policy.prefix_book import PrefixBook
from amoeba_sglang.router.answers import end, is_named_by, refuse
from amoeba_sglang.router.layout_keeper import LayoutKeeper
from amoeba_sglang.router.limits import Capacity, RequestLimits, fits, rank_refusal
from amoeba_sglang.router.loads import LoadBook
from amoeba_sglang.router.long_requests import LongRequests, size_of
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.waiting_limits import WaitingLimits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A request that needs an instance of `degree`, and waits since `since` to know its place."""

    request: Any
    degree: int
    since: float


class Placement:
    """Sends requests by a policy. `to_worker`: to a rank; `answer`: to the front end; `now`: the
    clock of the server; `waiting_limits`: of those that wait here.

    `long_requests` is None until `follow_rules`, and for ever if the layout changes only when asked
    to. `held`: requests that only the end of the running transformation decides.
    """

    def __init__(
        self,
        policy: Policy,
        capacity: Capacity,
        operations: Operations,
        load_book: LoadBook,
        to_worker: Callable[[int, Any], None],
        answer: Callable[[Any], None],
        now: Callable[[], float],
        waiting_limits: WaitingLimits,
    ) -> None:
        self.held: list[Held] = []
        self.long_requests: LongRequests | None = None
        self._policy, self._capacity, self._operations = policy, capacity, operations
        self._load_book, self._to_worker, self._answer = load_book, to_worker, answer
        self._now, self._waiting_limits = now, waiting_limits
        self._workers = operations.layout.workers
        self._placed = 0
        self._prefixes = PrefixBook()

    def follow_rules(self, rules: LayoutRules, chain: DegreeChain, base: int) -> None:
        """Let long requests wait for changes of the layout, from `base` on, that the rules make."""
        keeper = LayoutKeeper(rules, chain, self._operations, base, self._now())
        self.long_requests = LongRequests(
            keeper, self._send, self.reject, self._able_ranks,
            lambda: self._load_book.loads, self._waiting_limits,
        )  # fmt: skip

    @property
    def limits(self) -> RequestLimits:
        """Of the present layout, or of all if requests may wait for another."""
        if self.long_requests is not None:
            return RequestLimits.of_all_layouts(self._capacity)
        return RequestLimits.of_layout(self._capacity, self._operations.layout)

    def place(self, request: Any) -> None:
        """Send one request to its home, or answer it with 400 if the layout cannot hold it.

        While a transformation decides whether a layout can, the request waits for its end.
        """
        if self.long_requests is not None:
            size = size_of(request)
            degree = self._capacity.needed_degree(size.prompt_tokens, size.output_tokens)
            if degree is not None:
                self.long_requests.keeper.arrive(size, degree, self._now())
        self.place_again(request)

    def place_again(self, request: Any) -> None:
        """`place` for a request that has come before."""
        size, wanted = size_of(request), request.routed_dp_rank
        if wanted is not None and not self.has_rank(wanted):
            self.reject_rank(request)
            return
        able = self._able_ranks(size)
        if wanted is not None:
            able = tuple(rank for rank in able if rank == wanted)
        elif self._must_wait(request, size, able):
            return
        if not able and self._operations.running is not None:
            self._hold(request, size)
        elif not able:
            refusal = self.limits.refusal(size.prompt_tokens, size.output_tokens)
            self.reject(request, refusal or self._rank_refusal(wanted, size))
        else:
            rank = able[0] if wanted is not None else self._choose(request, size, able)
            self._send(rank, request)

    def _must_wait(self, request: Any, size: RequestSize, able: tuple[int, ...]) -> bool:
        """Let a request wait for an instance if those of the base degree do not hold it, or none
        does now."""
        degree = self._capacity.needed_degree(size.prompt_tokens, size.output_tokens)
        if self.long_requests is None or degree is None:
            return False
        if len(able) == self._workers or (able and degree <= self.long_requests.keeper.base):
            return False
        self.long_requests.arrive(request, size, degree, self._now())
        return True

    def _hold(self, request: Any, size: RequestSize) -> None:
        """Let a request wait for the end of the running transformation."""
        degree = self._capacity.needed_degree(size.prompt_tokens, size.output_tokens) or 1
        waiting = sum(held.degree == degree for held in self.held)
        reason = self._waiting_limits.when_full(waiting, degree)
        if reason is None:
            self.held.append(Held(request, degree, self._now()))
        else:
            self.reject(request, reason, HTTPStatus.SERVICE_UNAVAILABLE)

    def place_held(self) -> None:
        """The layout has changed: look again at what waited to know."""
        held, self.held = self.held, []
        for one in held:
            self.place_again(one.request)

    def expire(self) -> None:
        """Answer what has waited too long for the end of a transformation."""
        now, kept = self._now(), []
        for held in self.held:
            reason = self._waiting_limits.when_late(held.since, now)
            if reason is None:
                kept.append(held)
            else:
                self.reject(held.request, reason, HTTPStatus.SERVICE_UNAVAILABLE)
        self.held = kept

    @property
    def waiting(self) -> int:
        """Requests that no worker has."""
        long_requests = self.long_requests
        return len(self.held) + (0 if long_requests is None else len(long_requests.keeper.queue))

    def abort(self, abort: AbortReq) -> None:
        """End what waits here: no worker knows it."""
        named = [held.request for held in self.held if is_named_by(held.request, abort)]
        self.held = [held for held in self.held if not is_named_by(held.request, abort)]
        if self.long_requests is not None:
            queue = self.long_requests.keeper.queue
            taken = queue.take(lambda waiting: is_named_by(waiting.request, abort))
            named += [waiting.request for waiting in taken]
        for waiting in named:
            self._answer(end(waiting, abort.finished_reason))

    def has_rank(self, rank: int) -> bool:
        return 0 <= rank < self._workers

    def reject_rank(self, request: Any) -> None:
        last = self._workers - 1
        self.reject(request, f"routed_dp_rank {request.routed_dp_rank} is not in 0..{last}")

    def reject(
        self, request: Any, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST
    ) -> None:
        self._answer(refuse(request, reason, status))

    def _send(self, rank: int, request: Any) -> None:
        self._to_worker(rank, request)
        self._load_book.add(rank, len(request.input_ids or ()))

    def _able_ranks(self, size: RequestSize) -> tuple[int, ...]:
        """Ranks that can hold a request now and after the transformation that may be running."""
        if get_serving().allow_auto_truncate:
            return tuple(range(self._workers))
        layouts = (self._operations.layout, self._operations.target)
        limits = zip(*(self._capacity.by_rank(layout) for layout in layouts), strict=True)
        return tuple(
            rank
            for rank, tokens in enumerate(limits)
            if fits(size.prompt_tokens, size.output_tokens, min(tokens))
        )

    def _choose(self, request: Any, size: RequestSize, able: tuple[int, ...]) -> int:
        """The rank that the policy picks of those that can hold the request."""
        keeper = None if self.long_requests is None else self.long_requests.keeper
        view = View(
            self._operations.layout.instances, self._load_book.loads, self._placed, able,
            frozenset() if keeper is None else keeper.reserved,
            None if keeper is None else keeper.table,
            self._prefixes.find(request.input_ids or ()),
        )  # fmt: skip
        decision = self._policy.place(size, view)
        self._placed += 1
        self._prefixes.add(request.input_ids or (), decision.rank)
        logger.debug("request %s goes to %s", request.rid, decision)
        return decision.rank

    def _rank_refusal(self, rank: int, size: RequestSize) -> str:
        tokens = self._capacity.by_rank(self._operations.layout)[rank]
        return rank_refusal(rank, size.prompt_tokens, size.output_tokens, tokens)
