"""Which local slots of a worker are live, and whether every slot has exactly one owner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from amoeba_sglang.kv.audit import audit_slots


def free_slots(allocator: Any) -> torch.Tensor:
    """Free local slots of upstream's TokenToKVPoolAllocator, int64."""
    assert allocator.free_group is None, "frees are being deferred: not a safe point"
    if allocator.release_pages is None or not len(allocator.release_pages):
        return allocator.free_pages
    return torch.cat([allocator.free_pages, allocator.release_pages])


def live_slots(allocator: Any) -> np.ndarray:
    """Sorted local slots that somebody may read again, int64: the complement of the free list.

    A move clobbers dead units, so running, half-prefilled and tree-owned slots all count.
    """
    live = torch.ones(allocator.size + 1, dtype=torch.bool)
    live[0] = False
    live[free_slots(allocator).cpu()] = False
    return live.nonzero().flatten().numpy()


def audit(scheduler: Any) -> list[str]:
    """Problems of slot ownership on this worker, as lines; empty when clean.

    Every slot but the padding is exactly one of free, tree-owned and request-owned. Upstream's
    idle check compares counts only and stays silent when slots are wrong.
    """
    allocator = scheduler.token_to_kv_pool_allocator
    table = scheduler.req_to_token_pool.req_to_token
    owned = {
        str(req.rid): table[
            req.kv.req_pool_idx, req.kv.cache_protected_len : req.kv.kv_allocated_len
        ]
        .cpu()
        .numpy()
        .astype(np.int64)
        for req in live_requests(scheduler)
    }
    return audit_slots(
        size=allocator.size,
        free=free_slots(allocator).cpu().numpy(),
        tree=scheduler.tree_cache.all_values_flatten().cpu().numpy(),
        requests=owned,
    )


def live_requests(scheduler: Any) -> list[Any]:
    """Requests of this worker that hold KV, each once."""
    candidates: Iterable[Any] = (
        *scheduler.running_batch.reqs,
        *(scheduler.last_batch.reqs if scheduler.last_batch is not None else ()),
        *(scheduler.cur_batch_for_debug.reqs if scheduler.cur_batch_for_debug is not None else ()),
        *([scheduler.chunked_req] if scheduler.chunked_req is not None else ()),
        *scheduler.waiting_queue,
    )
    found = {id(req): req for req in candidates if req.kv is not None and req.kv.holds_kv}
    return list(found.values())
