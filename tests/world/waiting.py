"""Nobody waits although all that it and those beside it may ever need is free."""

from typing import Any

from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.control.layout.slots import FIRST_LEASED
from tests.world.violation import Violation

# Nobody heads a queue for longer while all that it needs is free, in virtual seconds: some steps.
_BLOCKED_S = 0.3


class Waiting:
    """Looks at the heads of all queues of workers."""

    def __init__(self, play: Any) -> None:
        self._play = play
        # By rank: who heads its queue although it fits, and since when.
        self._blocked: dict[int, tuple[str, float]] = {}

    def look(self) -> None:
        """Raise if somebody has waited so for too long."""
        for worker in self._play.workers:
            head = worker.waiting_queue[0] if worker.waiting_queue else None
            now = self._play.loop.now
            if head is None or not self._fits(worker, head):
                self._blocked.pop(worker.rank, None)
                continue
            rid, since = self._blocked.setdefault(worker.rank, (head.rid, now))
            if rid != head.rid:
                self._blocked[worker.rank] = head.rid, now
            elif now - since > max(_BLOCKED_S, 2 * self._play.faults.longest_step):
                raise Violation("a request waits although it fits", self.describe(worker, head))

    def _fits(self, worker: Any, head: Any) -> bool:
        busy = worker.chunked_req is not None or worker.runtime.transformation is not None
        # What weights take is no step: a worker that got both in one turn begins after that.
        busy |= self._play.operator.touches
        if busy or self._play.router.operations.running is not None or worker._engine_paused:
            return False
        allocator = worker.token_to_kv_pool_allocator
        page = allocator.page_size
        live = [req for req in Requests(worker).live if req is not head]
        if len(live) >= worker.max_running_requests:
            return False
        coming = {True: 0, False: 0}
        for req in live:
            more = allocator.claim(req, req.kv.kv_allocated_len).rest(page)
            coming[allocator.is_long(req)] += more
        own = (allocator.available_size() + worker.tree_cache.evictable_size()) // page
        own -= coming[False]
        extra = allocator.ledger.extra.free_count - coming[True]
        if extra < 0:
            own, extra = own + extra, 0
        own += self._idle_lent(worker)
        room = own + (extra if allocator.is_long(head) else 0)
        return allocator.claim(head, 0).rest(page) + 2 <= room

    def _idle_lent(self, worker: Any) -> int:
        """Own slots that are lent, lie free at the anchor, and that its long requests would not
        need if they used all its other extra slots first."""
        lent, degree = worker.token_to_kv_pool_allocator.ledger.lent, worker.runtime.degree
        if not len(lent) or degree == 1:
            return 0
        anchor = self._play.workers[worker.rank // degree * degree]
        allocator = anchor.token_to_kv_pool_allocator
        free = allocator.ledger.extra.free
        leased = free[free >= FIRST_LEASED]
        mine = leased[worker.runtime.chain.leased_from(worker.runtime.index, leased)]
        long = [req for req in Requests(anchor).all if allocator.is_long(req)]
        wanted = sum(
            allocator.claim(req, self._held(req)).rest(allocator.page_size) + 2 for req in long
        )
        return max(0, min(len(mine), len(free) - wanted))

    @staticmethod
    def _held(req: Any) -> int:
        return req.kv.kv_allocated_len if req.kv is not None and req.kv.holds_kv else 0

    def describe(self, worker: Any, req: Any) -> str:
        allocator = worker.token_to_kv_pool_allocator
        ledger = allocator.ledger
        return (
            f"rank {worker.rank} {req.rid}, {allocator.tokens_wanted(req)} tokens, long "
            f"{allocator.is_long(req)}: degree {worker.runtime.degree}, own free "
            f"{allocator.available_size()}, evictable {worker.tree_cache.evictable_size()}, extra "
            f"free {ledger.extra.free_count}, leased {len(ledger.extra.leased)}, lent "
            f"{len(ledger.lent)}, batch_is_full {worker.running_batch.batch_is_full}"
        )
