"""All requests that a worker has, wherever upstream keeps them."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.control.shares.claims import Claims
from amoeba_sglang.planes.kv.kv_row import KVRow


class Requests:
    """All of one worker at one moment, each once; looked for when they are asked for, since that
    costs a walk over all.

    `planned`: batches (or None) that the scheduler has planned but not installed yet.
    """

    def __init__(self, scheduler: Any, planned: Iterable[Any] = ()) -> None:
        self._scheduler, self._planned = scheduler, planned

    @cached_property
    def _queued(self) -> list[Any]:
        return [*self._scheduler.waiting_queue, *self._scheduler.grammar_manager.grammar_queue]

    @cached_property
    def live(self) -> list[Any]:
        """Those that hold KV."""
        found = [*batched_requests(self._scheduler, self._planned), *self._queued]
        holding = {id(r): r for r in found if r.kv is not None and r.kv.holds_kv}
        return list(holding.values())

    @cached_property
    def waiting(self) -> list[Any]:
        """The others, in the order in which they are admitted."""
        holding = set(map(id, self.live))
        return [req for req in self._queued if id(req) not in holding]

    @cached_property
    def all(self) -> list[Any]:
        return [*self.live, *self.waiting]

    def is_ending(self, req: Any) -> bool:
        """Whether a request has ended or been aborted, and only has to leave."""
        aborted = req.to_finish is not None or req is self._scheduler._pending_chunked_abort_req
        return aborted or req.finished()


def batched_requests(scheduler: Any, planned: Iterable[Any] = ()) -> list[Any]:
    """Requests of this worker that run, have just run, or are in the middle of their prompt, each
    once. `planned`: as of Requests."""
    # Overlap drops a request whose queued result finishes it from the running batch already.
    queued = [batch for batch, _ in scheduler.result_queue]
    batches = [*planned, *queued, scheduler.running_batch, scheduler.last_batch]
    found = [req for batch in batches if batch is not None for req in batch.reqs]
    # An aborted prompt is nowhere else until the next step is planned.
    chunked = (scheduler.chunked_req, scheduler._pending_chunked_abort_req)
    found += [req for req in chunked if req is not None]
    return list({id(req): req for req in found}.values())


def claims_of(
    requests: Requests,
    allocator: ElasticAllocator,
    rows: Any,
    forget: Callable[[int], None],
) -> Claims:
    """What these requests have of the worker's slots, and were promised; see KVRow."""
    page = allocator.page_size
    live = []
    for req in requests.live:
        row = KVRow(rows, req, page, forget)
        live.append(allocator.claim(req, req.kv.kv_allocated_len, requests.is_ending(req), row))
    return Claims(page, live, [allocator.claim(req, held=0) for req in requests.waiting])
