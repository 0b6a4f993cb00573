"""Asks the layout rules of a policy what to do, and remembers what they must know."""

import itertools
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import (
    Decision,
    Hold,
    LayoutRules,
    LongRequest,
    RequestSize,
    Scene,
)
from amoeba_sglang.control.policy.setting import SETTING
from amoeba_sglang.control.policy.traffic import TrafficBook
from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.limits import Capacity, RequestLimits
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.router.transform_request import TransformRequest

logger = logging.getLogger(__name__)

# After a refused change the same one is not tried again for so long, twice as long each time.
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_DECISIONS_KEPT = 64
# The base degree is reconsidered so often: it costs more than the other rules and changes rarely.
_BASE_SECONDS = 1.0
_PREFIX = "auto-"


class FixedLayout:
    """No rules: the layout changes only when an operator asks for it."""

    base = 1
    arrivals = 0
    decisions: Sequence[tuple[float, str, str]] = ()
    """The last ones: when, what and why."""

    @property
    def reserved(self) -> frozenset[int]:
        """Ranks that short requests leave to long ones."""
        return frozenset()

    def limits(self, capacity: Capacity, layout: Layout) -> RequestLimits:
        """What requests may have while `layout` runs."""
        return RequestLimits.of_layout(capacity, layout)

    def arrive(self, size: RequestSize, degree: int, now: float) -> None:
        """A request has come; `degree` is the smallest that holds it."""

    def is_for_rules(self, degree: int, able: Sequence[int]) -> bool:
        """Whether `admit` decides where a request goes; `able`: ranks that can hold it now."""
        return False

    def admit(self, long: LongRequest, able: tuple[int, ...], now: float) -> Decision | Hold:
        """The home of a request that is for the rules, or why it waits."""
        raise AssertionError("nothing waits for rules that do not exist")

    def next_change(self, now: float) -> TransformRequest | None:
        """A transformation to start now, or None."""
        return None

    def finished(self, record: Record, now: float) -> None:
        """Take the end of an operation, of these rules or of an operator."""

    def describe(self, now: float) -> dict[str, Any]:
        """Fields of `GET /amoeba/state`."""
        return {}


class LayoutKeeper(FixedLayout):
    """Changes the layout by the rules of a policy, and remembers what these must know.

    `base`: the degree without long requests, at first as given. Blocks that an operator brings to
    another degree are pinned: rules leave them alone until he asks for the base degree again.
    `arrivals`: how many requests have come.
    """

    def __init__(
        self, rules: LayoutRules, chain: DegreeChain, base: int, books: Books, now: float
    ) -> None:
        self.base, self._base_since, self._base_due = base, now, now
        self._traffic = TrafficBook(SETTING.traffic_s)
        self._rules, self._chain, self._books = rules, chain, books
        self._pinned: frozenset[int] = frozenset()
        self._refused: dict[tuple[tuple[int, ...], int], float] = {}
        self._delays: dict[tuple[tuple[int, ...], int], float] = {}
        self._numbers = itertools.count(1)
        self.decisions: deque[tuple[float, str, str]] = deque(maxlen=_DECISIONS_KEPT)

    def limits(self, capacity: Capacity, layout: Layout) -> RequestLimits:
        return RequestLimits.of_all_layouts(capacity)

    @property
    def reserved(self) -> frozenset[int]:
        """Ranks of instances that a long request has made, or lives in."""
        instances = self._books.operations.layout.instances
        return frozenset(
            rank
            for ranks in instances
            if len(ranks) > self.base and not self._pinned & set(ranks)
            for rank in ranks
        )

    def scene(self, now: float) -> Scene:
        books, longs = self._books, self._books.longs
        heads = tuple(waiting.long for waiting in books.queue.heads())
        return Scene(
            chain=self._chain, layout=books.operations.layout, base=self.base,
            loads=books.loads.loads, longs=longs.counts, quiet_since=longs.quiet_since,
            waiting=heads, backlog=len(books.queue), pinned=self._pinned, refused=self._refused,
            now=now, table=books.calibration.table, traffic=self._traffic.classes(now),
            evidence=self._traffic.evidence(now), base_since=self._base_since,
        )  # fmt: skip

    def arrive(self, size: RequestSize, degree: int, now: float) -> None:
        self.arrivals += 1
        self._traffic.add(size, degree, now)

    def is_for_rules(self, degree: int, able: Sequence[int]) -> bool:
        """If no instance of the base degree holds the request, or if none does now."""
        if len(able) == self._books.operations.layout.workers:
            return False
        return not able or degree > self.base

    def admit(self, long: LongRequest, able: tuple[int, ...], now: float) -> Decision | Hold:
        decision = self._rules.admit(long, self.scene(now), able)
        if isinstance(decision, Decision):
            what = f"request {long.request_id} goes to rank {decision.rank}"
            self._trace(what, decision.reason, now)
        return decision

    def next_change(self, now: float) -> TransformRequest | None:
        if self._books.operations.running is not None:
            return None
        if now >= self._base_due:
            self._base_due = now + _BASE_SECONDS
            self._choose_base(self.scene(now))
        change = self._rules.change(self.scene(now))
        if change is None:
            return None
        self._trace(f"ranks {list(change.ranks)} to degree {change.degree}", change.reason, now)
        name = f"{_PREFIX}{next(self._numbers)}"
        return TransformRequest(change.ranks, change.degree, name, wait=False, reason=change.reason)

    def _choose_base(self, scene: Scene) -> None:
        new = self._rules.base(scene)
        if new is not None:
            self._trace(f"the base degree becomes {new.degree}", new.reason, scene.now)
            self.base, self._base_since = new.degree, scene.now

    def finished(self, record: Record, now: float) -> None:
        key = record.ranks, record.degree
        if record.outcome in ("done", "unchanged"):
            self._delays.pop(key, None)
            if not record.operation_id.startswith(_PREFIX):
                others = self._pinned - set(record.ranks)
                at_base = record.degree == self.base
                self._pinned = others if at_base else others.union(record.ranks)
            return
        delay = self._delays.get(key, _FIRST_RETRY_S / 2) * 2
        self._delays[key] = min(delay, _LAST_RETRY_S)
        self._refused[key] = now + self._delays[key]
        self._trace(
            f"ranks {list(record.ranks)} stay: not tried again for {self._delays[key]:.0f} s",
            record.error,
            now,
        )

    def describe(self, now: float) -> dict[str, Any]:
        return {
            "waiting": self._books.queue.describe(now),
            "long_requests": list(self._books.longs.counts),
            "pinned": sorted(self._pinned),
            "base_degree": self.base,
            "decisions": [
                {"seconds_ago": round(now - at, 3), "decision": decision, "reason": reason}
                for at, decision, reason in self.decisions
            ],
        }

    def _trace(self, decision: str, reason: str, now: float) -> None:
        logger.debug("%s: %s", decision, reason)
        self.decisions.append((now, decision, reason))
