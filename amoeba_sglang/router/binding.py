"""An accepted request binds the layout that it needs."""

from __future__ import annotations

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.router.limits import Capacity, fits
from amoeba_sglang.router.long_book import LongBook
from amoeba_sglang.router.long_queue import LongQueue

# So many requests are named, the others counted.
_NAMED = 3


def stranded(
    capacity: Capacity, layout: Layout, target: Layout, longs: LongBook, queue: LongQueue
) -> str | None:
    """Why `layout` must not become `target` now: requests that live at a worker, or wait for one,
    could not be served after that; None if all can."""
    most = capacity.by_rank(target)
    before, after = max(capacity.by_rank(layout)), max(most)
    found = [
        f"request {request_id} needs up to {tokens} tokens of KV memory, but rank {rank} can have "
        f"{most[rank]} at degree {target.degrees[rank]} for one"
        for rank, request_id, tokens in longs.living()
        if tokens > most[rank]
    ]
    for waiting in queue:
        size = waiting.request.size.prompt_tokens, waiting.request.size.output_tokens
        if fits(*size, before) and not fits(*size, after):
            found.append(
                f"request {waiting.request.rid} waits for an instance that holds "
                f"{waiting.long.tokens} tokens, but one request can have {after} then"
            )
    if not found:
        return None
    more = [f"{len(found) - _NAMED} more like these"] if len(found) > _NAMED else []
    return "; ".join([*found[:_NAMED], *more, "wait for its end, or abort it"])
