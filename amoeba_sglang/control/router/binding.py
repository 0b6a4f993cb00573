"""An accepted request binds the layout that it needs."""

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.limits import Capacity, fits

# So many requests are named, the others counted.
_NAMED = 3


def stranded(capacity: Capacity, books: Books, target: Layout) -> str | None:
    """Why the layout must not become `target` now: requests that live at a worker, or wait for one,
    could not be served after that; None if all can."""
    most = capacity.by_rank(target)
    before, after = max(capacity.by_rank(books.operations.layout)), max(most)
    found = [
        f"request {request_id} needs up to {tokens} tokens of KV memory, but rank {rank} can have "
        f"{most[rank]} at degree {target.degrees[rank]} for one"
        for rank, request_id, tokens, _ in books.longs.living()
        if tokens > most[rank]
    ]
    for waiting in books.queue:
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
