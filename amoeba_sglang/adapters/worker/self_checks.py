"""What a worker says and asserts about itself when tests ask for it (`AMOEBA_AUDIT=1`)."""

import json
import logging

from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.worker.audit import audit
from amoeba_sglang.adapters.worker.slots import live_slots
from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.planes.transformation import Transformation

logger = logging.getLogger(__name__)


class SelfChecks(Scheduler):
    """The audits of an ElasticScheduler, and what it logs of its steps."""

    audits: bool
    """Whether the variable is set; none of these does anything without it."""

    def check(self, *planned: object) -> None:
        """Stop the worker if any slot has no owner or two."""
        if not self.audits:
            return
        problems = audit(self, planned)
        assert not problems, "slot audit failed:\n" + "\n".join(problems)

    def log_step(self, under_way: Transformation) -> None:
        """Say what happens to the requests of this worker in a step, and with which b it runs."""
        if not self.audits:
            return
        order, boundary = under_way.order, under_way.boundary
        if under_way.layers:
            boundary = boundary.after(under_way.layers)
        place = {"b": boundary.b, "before": order.before, "after": order.after}
        logger.info("joint step %s", json.dumps({**place, **self.step_events}))

    def log_slots(self, news: SlotNews, changing: bool) -> None:
        """Say which slots this worker lends or returns, and which of its tokens move to others: for
        the prefix cache, or `changing`, since a transformation takes theirs away."""
        if not self.audits:
            return
        counts = {
            "lent": len(news.lent),
            "returned": len(news.returned),
            "relocated" if changing else "moved to stay cached": len(news.moved_to),
        }
        if any(counts.values()):
            logger.info("slots change hands %s", json.dumps(counts))

    def log_digest(self, when: str) -> None:
        """Say what KV and weights are; only idle: under load the KV changes anyway, and hashing all
        weights takes a second."""
        if self.audits and self.runtime.degree == 1 and self.is_fully_idle():
            live = live_slots(self.token_to_kv_pool_allocator)
            digests = self.runtime.plane.digest(live)
            if digests is not None:
                logger.info("digest %s: %d slots kv %s weights %s", when, len(live), *digests)
