"""How loaded a worker is, with what it is prefilling.

Upstream counts the running batch and the waiting queue. A prompt that is being prefilled is in
neither of them, and with mixed chunks the running batch is empty meanwhile: the busiest worker
looked the idlest, and the router sent it the next request. Upstream's capacity is that at start.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sglang.srt.managers.load_snapshot import LoadSnapshot
from sglang.srt.managers.scheduler_components.load_inquirer import SchedulerLoadInquirer

from amoeba_sglang.adapters.worker.pool_stats import capacity_tokens
from amoeba_sglang.adapters.worker.requests import batched_requests


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
        load.max_total_num_tokens = capacity_tokens(self.token_to_kv_pool_allocator)
        if load.memory is not None:
            load.memory.token_capacity = load.max_total_num_tokens
        held = batched_requests(self.scheduler)
        load.num_running_reqs = sum(not req.finished() for req in held)
        chunked = self.scheduler.chunked_req
        if chunked is not None:
            # The rest of its prompt has no memory yet; its running chunk is counted by upstream.
            load.num_total_tokens += max(0, chunked.seqlen - chunked.extend_end)
        load.num_waiting_uncached_tokens += sum(
            req.extend_len
            for batch, _ in self.scheduler.result_queue
            if batch.forward_mode.is_extend()
            for req in batch.reqs
            if req is not chunked
        )
        return load
