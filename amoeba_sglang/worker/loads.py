"""How loaded a worker is, with what it is prefilling.

Upstream counts the running batch and the waiting queue. A prompt that is being prefilled is in
neither of them, and with mixed chunks the running batch is empty meanwhile: the busiest worker
looked the idlest, and the router sent it the next request.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sglang.srt.managers.load_snapshot import LoadSnapshot
from sglang.srt.managers.scheduler_components.load_inquirer import SchedulerLoadInquirer


@dataclass(kw_only=True, slots=True, frozen=True)
class ElasticLoadInquirer(SchedulerLoadInquirer):
    """Upstream's, completed; `scheduler`: an ElasticScheduler."""

    scheduler: Any

    @classmethod
    def around(cls, upstream: SchedulerLoadInquirer, scheduler: Any) -> ElasticLoadInquirer:
        known = {field.name: getattr(upstream, field.name) for field in fields(upstream)}
        return cls(**known, scheduler=scheduler)

    def get_loads(self) -> LoadSnapshot:
        """`timestamp` is when the worker last received: requests sent later are not counted."""
        load = SchedulerLoadInquirer.get_loads(self)
        load.timestamp = self.scheduler.received_at
        chunked = self.get_chunked_req()
        launched = [batch for batch, _ in self.scheduler.result_queue]
        batches = [self.get_running_batch(), self.scheduler.last_batch, *launched]
        held = {id(req) for batch in batches if batch for req in batch.reqs if not req.finished()}
        if chunked is not None:
            held.add(id(chunked))
            # The rest of its prompt has no memory yet; its running chunk is counted by upstream.
            load.num_total_tokens += max(0, chunked.seqlen - chunked.extend_end)
        load.num_running_reqs = len(held)
        computing = {
            id(req): req.extend_len
            for batch in launched
            if batch.forward_mode.is_extend()
            for req in batch.reqs
            if req is not chunked
        }
        load.num_waiting_uncached_tokens += sum(computing.values())
        return load
