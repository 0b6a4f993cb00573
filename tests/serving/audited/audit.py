"""Checks of a worker for tests: slot owners, what happens when."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from amoeba_sglang.adapters.worker.batch_rows import extends
from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.adapters.worker.slots import free_slots
from amoeba_sglang.control.layout.locations import slots_of
from tests.serving.audited.slots import audit_slots


def audit(scheduler: Any, planned: Iterable[Any]) -> list[str]:
    """Problems of slot ownership on this worker, as lines; empty when clean.

    `planned`: batches (or None) that the scheduler has planned but not installed yet.

    Every slot but the padding is exactly one of free, tree-owned and request-owned, and the tokens
    of a row lie in its slots in order. Upstream's idle check compares counts only and stays silent
    when slots are wrong.
    """
    allocator = scheduler.token_to_kv_pool_allocator
    ledger, extra = allocator.ledger, allocator.ledger.extra
    table = scheduler.req_to_token_pool.req_to_token
    leased = np.sort(extra.leased)
    top = allocator.num_pages + extra.grown

    def dense(ids: np.ndarray) -> np.ndarray:
        """Ids with the leased ones, which have gaps, numbered on from the grown ones."""
        return np.where(ids > top, top + 1 + np.searchsorted(leased, ids), ids)

    def held(locations: torch.Tensor) -> np.ndarray:
        return dense(slots_of(locations.cpu().numpy(), allocator.page_size))

    owned = {
        str(req.rid): held(
            table[req.kv.req_pool_idx, req.kv.cache_protected_len : req.kv.kv_allocated_len]
        )
        for req in Requests(scheduler, planned).live
    }
    # Ended requests leave their slots when all workers have copied what the tree keeps of them.
    owned["of tokens that move"] = dense(ledger.moves.source)
    owned["kept for an order"] = dense(ledger.kept)
    free = np.concatenate([free_slots(allocator).cpu().numpy(), extra.free, extra.withheld])
    return audit_slots(
        size=top + len(leased),
        free=dense(free),
        tree=held(scheduler.tree_cache.all_values_flatten()),
        requests=owned,
        leased=ledger.lent,
    )


class RequestEvents:
    """What happens to a worker's requests from one step to the next."""

    def __init__(self) -> None:
        self._live: dict[int, tuple[Any, int]] = {}

    def since_last_step(self, live: Iterable[Any], batch: Any) -> dict[str, int]:
        """How many have arrived, finished, been aborted or retracted since the last call, and the
        rows of the planned `batch` (or None). `live`: requests that hold KV now."""
        before, now = self._live, {id(req): (req, req.retraction_count) for req in live}
        self._live = now
        counts = dict.fromkeys(("arrived", "finished", "aborted", "retracted"), 0)
        counts["arrived"] = len(now.keys() - before.keys())
        for req, retractions in before.values():
            if req.retraction_count > retractions:
                counts["retracted"] += 1
            elif id(req) not in now and req.finished():
                aborted = req.finished_reason.to_json()["type"] == "abort"
                counts["aborted" if aborted else "finished"] += 1
        rows = 0 if batch is None else len(batch.reqs)
        return {**counts, "prefill": rows * extends(batch), "decode": rows * (not extends(batch))}
