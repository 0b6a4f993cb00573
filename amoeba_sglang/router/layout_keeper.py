"""Asks the layout rules of a policy what to do, and remembers what they must know."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import Any

from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.policy import (
    Decision,
    Hold,
    LayoutRules,
    LongRequest,
    RequestSize,
    Scene,
    WorkerLoad,
)
from amoeba_sglang.policy.setting import SETTING
from amoeba_sglang.policy.throughput import ThroughputTable
from amoeba_sglang.policy.traffic import TrafficBook
from amoeba_sglang.router.long_book import LongBook
from amoeba_sglang.router.long_queue import LongQueue
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.transform_request import TransformRequest

logger = logging.getLogger(__name__)

# After a refused change the same one is not tried again for so long, twice as long each time.
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_DECISIONS_KEPT = 64
# The base degree is reconsidered so often: it costs more than the other rules and changes rarely.
_BASE_SECONDS = 1.0
_PREFIX = "auto-"


class LayoutKeeper:
    """Long requests that wait and live, what operators and workers do not want, and the trace.

    `base`: the degree without long requests, at first as given. Blocks that an operator brings to
    another degree are pinned: rules leave them alone until he asks for the base degree again.
    `table`: what steps cost, None until it is known. `arrivals`: how many requests have come.
    """

    def __init__(
        self, rules: LayoutRules, chain: DegreeChain, operations: Operations, base: int, now: float
    ) -> None:
        self.queue, self.longs = LongQueue(), LongBook(operations.layout.workers, now)
        self.base, self._base_since, self._base_due = base, now, now
        self.table: ThroughputTable | None = None
        self.arrivals = 0
        self._traffic = TrafficBook(SETTING.traffic_s)
        self._rules, self._chain, self._operations = rules, chain, operations
        self._pinned: frozenset[int] = frozenset()
        self._refused: dict[tuple[tuple[int, ...], int], float] = {}
        self._delays: dict[tuple[tuple[int, ...], int], float] = {}
        self._numbers = itertools.count(1)
        self._decisions: deque[tuple[float, str, str]] = deque(maxlen=_DECISIONS_KEPT)

    @property
    def reserved(self) -> frozenset[int]:
        """Ranks of instances that a long request has made, or lives in."""
        instances = self._operations.layout.instances
        return frozenset(
            rank
            for ranks in instances
            if len(ranks) > self.base and not self._pinned & set(ranks)
            for rank in ranks
        )

    def scene(self, loads: tuple[WorkerLoad, ...], now: float) -> Scene:
        heads = tuple(waiting.long for waiting in self.queue.heads())
        return Scene(
            self._chain, self._operations.layout, self.base, loads, self.longs.counts,
            self.longs.quiet_since, heads, len(self.queue), self._pinned, self._refused, now,
            self.table, self._traffic.classes(now), self._traffic.evidence(now), self._base_since,
        )  # fmt: skip

    def arrive(self, size: RequestSize, degree: int, now: float) -> None:
        """A request has come; `degree` is the smallest that holds it."""
        self.arrivals += 1
        self._traffic.add(size, degree, now)

    def admit(
        self, long: LongRequest, loads: tuple[WorkerLoad, ...], able: tuple[int, ...], now: float
    ) -> Decision | Hold:
        decision = self._rules.admit(long, self.scene(loads, now), able)
        if isinstance(decision, Decision):
            self.longs.send(decision.rank, long.request_id, now)
            what = f"request {long.request_id} goes to rank {decision.rank}"
            self._trace(what, decision.reason, now)
        return decision

    def next_change(self, loads: tuple[WorkerLoad, ...], now: float) -> TransformRequest | None:
        """A transformation to start now, or None."""
        if self._operations.running is not None:
            return None
        if now >= self._base_due:
            self._base_due = now + _BASE_SECONDS
            self._choose_base(self.scene(loads, now))
        change = self._rules.change(self.scene(loads, now))
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

    def finished(self, record: dict[str, Any], now: float) -> None:
        """Take the end of an operation, of these rules or of an operator."""
        ranks, degree = tuple(record["ranks"]), record["degree"]
        key = ranks, degree
        if record["outcome"] in ("done", "unchanged"):
            self._delays.pop(key, None)
            if record["outcome"] == "done":
                self.longs.start_layout(ranks, now)
            if not record["operation_id"].startswith(_PREFIX):
                others = self._pinned - set(ranks)
                self._pinned = others if degree == self.base else others | set(ranks)
            return
        delay = self._delays.get(key, _FIRST_RETRY_S / 2) * 2
        self._delays[key] = min(delay, _LAST_RETRY_S)
        self._refused[key] = now + self._delays[key]
        self._trace(
            f"ranks {list(ranks)} stay: not tried again for {self._delays[key]:.0f} s",
            record.get("error", record["outcome"]),
            now,
        )

    def describe(self, now: float) -> dict[str, Any]:
        """Fields of `GET /amoeba/state`."""
        return {
            "waiting": self.queue.describe(now),
            "long_requests": list(self.longs.counts),
            "pinned": sorted(self._pinned),
            "base_degree": self.base,
            "decisions": [
                {"seconds_ago": round(now - at, 3), "decision": decision, "reason": reason}
                for at, decision, reason in self._decisions
            ],
        }

    def _trace(self, decision: str, reason: str, now: float) -> None:
        logger.debug("%s: %s", decision, reason)
        self._decisions.append((now, decision, reason))
