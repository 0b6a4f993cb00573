"""Which local slots of a worker are free, which are live, and which requests hold some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def free_slots(allocator: Any) -> torch.Tensor:
    """Free local slots of upstream's PagedTokenToKVPoolAllocator, int64."""
    assert allocator.free_group is None, "frees are being deferred: not a safe point"
    return allocator.get_all_free_pages()


def live_slots(allocator: Any) -> np.ndarray:
    """Sorted local slots that somebody may read again, int64: the complement of the free list.

    A move clobbers dead units, so running, half-prefilled and tree-owned slots all count.
    """
    live = torch.ones(allocator.num_pages + 1, dtype=torch.bool)
    live[0] = False
    live[free_slots(allocator).cpu()] = False
    return live.nonzero().flatten().numpy()


def live_requests(scheduler: Any, planned: Iterable[Any]) -> list[Any]:
    """Requests of this worker that hold KV, each once.

    `planned`: batches (or None) that the scheduler has planned but not installed yet.
    """
    candidates = [*batched_requests(scheduler, planned), *scheduler.waiting_queue]
    found = {id(r): r for r in candidates if r.kv is not None and r.kv.holds_kv}
    return list(found.values())


def batched_requests(scheduler: Any, planned: Iterable[Any] = ()) -> list[Any]:
    """Requests of this worker that run, have just run, or are in the middle of their prompt, each
    once. `planned`: as of live_requests."""
    # Overlap drops a request whose queued result finishes it from the running batch already.
    queued = [batch for batch, _ in scheduler.result_queue]
    batches = [*planned, *queued, scheduler.running_batch, scheduler.last_batch]
    found = [req for batch in batches if batch is not None for req in batch.reqs]
    if scheduler.chunked_req is not None:
        found.append(scheduler.chunked_req)
    return list({id(req): req for req in found}.values())
