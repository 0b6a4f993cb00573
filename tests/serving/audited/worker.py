"""A worker that checks and logs what it does."""

import json
import logging
from typing import Any

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.adapters.worker.slots import live_slots
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.control.worker import protocol
from amoeba_sglang.planes.transformation import Transformation
from tests.serving.audited.audit import RequestEvents, audit
from tests.serving.audited.digest import digest

logger = logging.getLogger(__name__)


class AuditedTurn(Turn):
    """Checks the scheduler's slots wherever its transformation gets on."""

    def _do(self, effect: protocol.Effect) -> Any:
        result = super()._do(effect)
        if isinstance(effect, protocol.Exchange):
            own = result[self._runtime.index % len(result)]
            log_slots(own.slots, changing=bool(effect.ready))
        return result

    def _enter(self, order: TransformOrder, since: float) -> None:
        self._runtime.executor.synchronize()
        check(self._scheduler, *self._planned)
        log_digest("before", self._scheduler)
        super()._enter(order, since)

    def _report(self, under_way: Transformation, ended: bool) -> int | None:
        check(self._scheduler, *self._planned)
        log_step(under_way, self._scheduler.step_events)
        if ended:
            log_digest("after", self._scheduler)
        return super()._report(under_way, ended)


class AuditedScheduler(ElasticScheduler):
    """`step_events`: what has happened to its requests since the last step."""

    def __init__(self, *args: Any) -> None:
        self._request_events = RequestEvents()
        self.step_events: dict[str, int] = {}
        super().__init__(*args)

    def begin_turn(self, batch: Any = None, running_batch: Any = None) -> Turn:
        return AuditedTurn(self, batch, running_batch)

    def step_with_peers(self, batch: Any, running_batch: Any) -> None:
        live = Requests(self, (batch, running_batch)).live
        self.step_events = self._request_events.since_last_step(live, batch)
        super().step_with_peers(batch, running_batch)

    def on_idle(self) -> None:
        self.runtime.plane.rest()
        if self.runtime.may_sleep() and self.is_fully_idle():
            check(self)
        super().on_idle()


def check(scheduler: Any, *planned: object) -> None:
    """Stop the worker if any slot has no owner or two."""
    problems = audit(scheduler, planned)
    assert not problems, "slot audit failed:\n" + "\n".join(problems)


def log_step(under_way: Transformation, events: dict[str, int]) -> None:
    """Say what happens to the requests of this worker in a step, and with which b it runs."""
    order, boundary = under_way.order, under_way.boundary
    if under_way.layers:
        boundary = boundary.after(under_way.layers)
    place = {"b": boundary.b, "before": order.before, "after": order.after}
    logger.info("joint step %s", json.dumps({**place, **events}))


def log_slots(news: SlotNews, changing: bool) -> None:
    """Say which slots this worker lends or returns, and which of its tokens move to others: for
    the prefix cache, or `changing`, since a transformation takes theirs away."""
    counts = {
        "lent": len(news.lent),
        "returned": len(news.returned),
        "relocated" if changing else "moved to stay cached": len(news.moved_to),
    }
    if any(counts.values()):
        logger.info("slots change hands %s", json.dumps(counts))


def log_digest(when: str, scheduler: Any) -> None:
    """Say what KV and weights are; only idle: under load the KV changes anyway, and hashing all
    weights takes a second."""
    if scheduler.runtime.degree == 1 and scheduler.is_fully_idle():
        allocator = scheduler.token_to_kv_pool_allocator
        pool, live = allocator.get_kvcache(), live_slots(allocator)
        # An emulated worker has none.
        if isinstance(pool, ElasticKVPool):
            digests = digest(scheduler.runtime.plane.executor.layers, pool, live)
            logger.info("digest %s: %d slots kv %s weights %s", when, len(live), *digests)
