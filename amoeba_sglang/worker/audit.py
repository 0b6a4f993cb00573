"""Checks of a worker for tests (`AMOEBA_AUDIT=1`): slot owners, digests of KV and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from amoeba_sglang.kv.audit import audit_slots
from amoeba_sglang.model.kv_pool import ElasticKVPool
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.worker.slots import free_slots, live_requests


def audit(scheduler: Any, planned: Iterable[Any]) -> list[str]:
    """Problems of slot ownership on this worker, as lines; empty when clean.

    `planned`: batches (or None) that the scheduler has planned but not installed yet.

    Every slot but the padding is exactly one of free, tree-owned and request-owned. Upstream's
    idle check compares counts only and stays silent when slots are wrong.
    """
    allocator = scheduler.token_to_kv_pool_allocator
    table = scheduler.req_to_token_pool.req_to_token
    leased = np.sort(allocator.leased.cpu().numpy())
    top = allocator.size + allocator.grown

    def dense(ids: torch.Tensor) -> np.ndarray:
        """Ids with the leased ones, which have gaps, numbered on from the grown ones."""
        ids = ids.cpu().numpy().astype(np.int64)
        return np.where(ids > top, top + 1 + np.searchsorted(leased, ids), ids)

    owned = {
        str(req.rid): dense(
            table[req.kv.req_pool_idx, req.kv.cache_protected_len : req.kv.kv_allocated_len]
        )
        for req in live_requests(scheduler, planned)
    }
    return audit_slots(
        size=top + len(leased),
        free=dense(torch.cat([free_slots(allocator), allocator.free_extra])),
        tree=scheduler.tree_cache.all_values_flatten().cpu().numpy(),
        requests=owned,
        leased=allocator.lent.cpu().numpy(),
    )


def digest(pool: ElasticKVPool, live: np.ndarray, layers: list[LayerShards]) -> tuple[str, str]:
    """Digests of the live KV and of the full weights, to compare before and after a round trip."""
    assert all(layer.degree == 1 for layer in layers)
    slots = torch.from_numpy(live)
    kv, weights = hashlib.sha256(), hashlib.sha256()
    for blocks, layer in zip(pool.blocks, layers, strict=True):
        for block in blocks:
            kv.update(block[slots].contiguous().view(torch.uint8).numpy())
        for linear in layer.linears:
            weights.update(linear.weight.data.contiguous().view(torch.uint8).numpy())
    return kv.hexdigest()[:16], weights.hexdigest()[:16]
