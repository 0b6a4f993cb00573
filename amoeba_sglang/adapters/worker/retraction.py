"""What happens to a request that alone finds no slot, since its own are lent or not lent yet."""

import logging
from typing import Any

from sglang.srt.managers.scheduler import Scheduler

logger = logging.getLogger(__name__)


class Retraction(Scheduler):
    """Lets an ElasticScheduler retract also the last request of a batch."""

    def update_running_batch(self, batch: Any) -> Any:
        if not (self.runtime.slots.is_alone or self._reqs_finishing_inflight(batch)):
            self.retract_last(batch)
        return super().update_running_batch(batch)

    def retract_last(self, batch: Any) -> None:
        """Retract down to none where upstream would abort the request that it keeps.

        Upstream takes for granted that one request alone always fits. Here it does as soon as slots
        have been lent or have come home, which it waits for without holding any.
        """
        if batch.is_empty() or batch.check_decode_mem():
            return
        order = batch._get_decode_retraction_order(batch.reqs)
        if batch.check_decode_mem(order[:1]):
            return
        retracted = []
        while order and not batch.check_decode_mem(order):
            index = order.pop()
            retracted.append(batch.reqs[index])
            batch.release_req(index, len(order))
        batch.filter_batch(keep_indices=order)
        logger.warning("KV slots are lent: retracted %s", [req.rid for req in retracted])
        for req in retracted:
            self._add_request_to_queue(req, is_retracted=True)
