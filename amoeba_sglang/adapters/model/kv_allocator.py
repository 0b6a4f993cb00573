"""Upstream's allocator over a Ledger: tensors in, ids out.

A slot is a KV page of `page_size` tokens, as in the layout; upstream's name for it is a page, and a
token's location is slot * page_size + offset.

Slots and locations are on the host on every device: what is given is taken from there, and what
comes back are rows and prefixes of HostRows. Nothing here waits for the device.
"""

from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.utils.common import is_pin_memory_available

from amoeba_sglang.adapters.model.host_rows import rows_for_scheduler
from amoeba_sglang.adapters.model.prefill_budget import ElasticPrefillBudget
from amoeba_sglang.control.layout.locations import missing_slots, next_locations
from amoeba_sglang.control.shares.claims import Claim, Row
from amoeba_sglang.control.shares.ledger import Ledger
from amoeba_sglang.control.shares.loans import SPARE_SLOTS
from amoeba_sglang.planes.kv.kv_row import replace_slots, row_slots


class ElasticAllocator(PagedTokenToKVPoolAllocator):
    """Upstream's allocator of a worker's own slots 1..num_pages, plus the extra slots of `ledger`.

    Extra slots may go away at the next transformation, so only a request that is too long for the
    worker's own slots gets them, before its own ones; the tree and `available_size` never see them.
    """

    chooses_by_request = True

    def __init__(
        self,
        size: int,
        page_size: int,
        dtype: torch.dtype,
        device: str,
        kvcache: Any,
        need_sort: bool,
    ) -> None:
        # Before upstream's constructor, which clears.
        self.ledger = Ledger(size // page_size)
        # SGLang takes the device of the prefix cache from here, too.
        super().__init__(size, page_size, dtype, "cpu", kvcache, need_sort=need_sort)
        self._pins = is_pin_memory_available(device)

    def clear(self) -> None:
        """Free every slot, as a flush does; the lent stay away."""
        super().clear()
        self.ledger.clear()
        away = torch.from_numpy(self.ledger.lent)
        self.free_pages = self.free_pages[~torch.isin(self.free_pages, away)]

    def rows_of_scheduler(self, req_to_token_pool: ReqToTokenPool) -> ReqToTokenPool:
        """See HostRows."""
        return rows_for_scheduler(req_to_token_pool)

    # Requests

    @property
    def request_tokens(self) -> int:
        """The most tokens of prompt and output of one request that the own slots hold."""
        return (self.num_pages - SPARE_SLOTS) * self.page_size

    def tokens_wanted(self, req: Any) -> int:
        """Prompt and output of a request when it is complete."""
        return len(req.origin_input_ids) + req.sampling_params.max_new_tokens

    def is_long(self, req: Any) -> bool:
        """Whether the request needs more than this worker's own slots."""
        return self.tokens_wanted(req) > self.request_tokens

    def claim(self, req: Any, held: int, ending: bool = False, row: Row | None = None) -> Claim:
        """What the request has, `held` tokens, and was promised."""
        fill = len(req.origin_input_ids) + len(req.output_ids)
        wanted = self.tokens_wanted(req)
        is_long = wanted > self.request_tokens
        return Claim(req.rid, held, fill, wanted, is_long, ending=ending, row=row)

    # Allocation

    def alloc_for_requests(
        self, tree_cache: Any, reqs: list, tokens_per_req: list[int], last_locs: list[int]
    ) -> torch.Tensor | None:
        """Locations for each request in turn, [sum(tokens_per_req)] int64; None if memory is short.

        `last_locs`: location of each request's last token so far, -1 before the first; the rest of
        its slot is filled first. Pinned where that lets a device copy it without a wait.
        """
        page, left = self.page_size, self.ledger.extra.free_count
        ends = [last + 1 for last in last_locs]
        counts, extra = [], []
        for req, tokens, end in zip(reqs, tokens_per_req, ends, strict=True):
            counts.append(missing_slots(end, tokens, page))
            extra.append(min(counts[-1], left) if left and self.is_long(req) else 0)
            left -= extra[-1]
        own_count = sum(counts) - sum(extra)
        self.evict_to_free_tokens(tree_cache, own_count * page)
        own = self.take_own(own_count)
        if own is None:
            return None
        slots = own if not any(extra) else self._mix(own, counts, extra)
        if page > 1:
            each = np.split(slots, np.cumsum(counts)[:-1])
            locations = [
                next_locations(end, tokens, part, page)
                for end, tokens, part in zip(ends, tokens_per_req, each, strict=True)
            ]
            slots = np.concatenate(locations)
        found = torch.from_numpy(slots)
        return found.pin_memory() if self._pins else found

    def take_own(self, count: int) -> np.ndarray | None:
        """`count` of the free own slots, int64; None if there are fewer."""
        if count > len(self.free_pages):
            self.merge_and_sort_free()
        if count > len(self.free_pages):
            return None
        slots, self.free_pages = self.free_pages[:count], self.free_pages[count:]
        return slots.numpy()

    def _mix(self, own: np.ndarray, counts: list[int], extra: list[int]) -> np.ndarray:
        """The slots of each request in turn, the first of them extra ones."""
        parts = []
        for count, more in zip(counts, extra, strict=True):
            parts += [self.ledger.extra.take(more), own[: count - more]]
            own = own[count - more :]
        return np.concatenate(parts)

    def _release_page_ids(self, *page_ids: torch.Tensor) -> None:
        # All that upstream frees comes through here.
        if self.ledger.extra.count:
            slots = torch.cat(page_ids).to(torch.int64).numpy()
            page_ids = (torch.from_numpy(self.ledger.release(slots)),)
        super()._release_page_ids(*page_ids)

    def check_decode_capacity(
        self, *, num_tokens, tree_cache, requests=None, spec_algorithm=None
    ) -> bool:
        extra = self.ledger.extra.free_count
        if extra and requests is not None:
            # Of the requests whose last slot is full; `num_tokens` is a slot for each of them.
            full = [req for req in requests if req.kv.kv_committed_len % self.page_size == 0]
            long = min(sum(map(self.is_long, full)), extra)
            num_tokens = max(0, num_tokens - long * self.page_size)
        return super().check_decode_capacity(
            num_tokens=num_tokens,
            tree_cache=tree_cache,
            requests=requests,
            spec_algorithm=spec_algorithm,
        )

    def max_new_tokens_for_memory(self, input_tokens, max_new_tokens, *, token_capacity, **kwargs):
        capacity = token_capacity + self.ledger.beyond * self.page_size
        return super().max_new_tokens_for_memory(
            input_tokens, max_new_tokens, token_capacity=capacity, **kwargs
        )

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        return ElasticPrefillBudget(
            self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens
        )

    # Ends

    def prepare_checkpoint(self, req: Any, kv_row: torch.Tensor) -> int:
        """How many tokens of `kv_row` the tree may own: of a long request that has ended as many
        full slots as fit into the free own ones, to which they move. The device's row does not
        follow, since the request does not run again."""
        if not self.is_long(req):
            return len(kv_row)
        if not req.finished():
            return 0
        page, slots = self.page_size, row_slots(kv_row, self.page_size)
        strays = np.flatnonzero(slots[: len(kv_row) // page] > self.num_pages)
        room = self.ledger.room_to_move(self.available_size() // page)
        kept = int(strays[room]) * page if len(strays) > room else len(kv_row)
        strays = strays[:room]
        targets = self.take_own(len(strays))
        self.ledger.moves.note(slots[strays], targets)
        replace_slots(kv_row, strays, targets, page)
        return kept

    def finish_moves(self) -> None:
        """All workers of the instance have copied what moved."""
        self.free_page_ids(torch.from_numpy(self.ledger.moves.finish()))


class OwnPool:
    """A worker's own slots for its ledger: those of its allocator, and of its prefix cache."""

    def __init__(self, allocator: ElasticAllocator, tree_cache: Any) -> None:
        self._allocator, self._tree_cache = allocator, tree_cache

    def room(self) -> int:
        free = self._allocator.available_size() + self._tree_cache.evictable_size()
        return free // self._allocator.page_size

    def take(self, count: int) -> np.ndarray:
        allocator = self._allocator
        allocator.evict_to_free_tokens(self._tree_cache, count * allocator.page_size)
        allocator.merge_and_sort_free()
        slots = allocator.take_own(count)
        assert slots is not None, f"{allocator.available_size()} tokens of own slots, not {count}"
        return slots

    def put(self, slots: np.ndarray) -> None:
        self._allocator.free_page_ids(torch.from_numpy(slots))
