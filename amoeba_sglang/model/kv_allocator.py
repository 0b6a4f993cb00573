"""Which slots a request may use: its worker's own, and for a long one also extra ones.

A slot is a KV page of `page_size` tokens, as in the layout; upstream's name for it is a page, and a
token's location is slot * page_size + offset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

from amoeba_sglang.layout.locations import missing_slots, next_locations, slots_filled
from amoeba_sglang.model.prefill_budget import ElasticPrefillBudget

# SGLang admits a request only when more than its tokens, its prompt rounded up to whole slots, and
# one spare slot are free.
SPARE_SLOTS = 2


class ElasticAllocator(PagedTokenToKVPoolAllocator):
    """Upstream's allocator of a worker's own slots 1..num_pages, plus extra slots above these.

    Extra slots are grown ones (num_pages + 1 .. num_pages + grown), in memory that a merge freed
    from weights, and leased ones, a peer's own. All go away at the next transformation, so only a
    request that is too long for the worker's own slots gets them, before its own ones; the tree and
    `available_size` never see them. The other side of a lease are `lent` slots, which belong to
    nobody here until they come home.
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
        self.grown = self.leasable = 0
        self.leased = self.lent = torch.empty(0, dtype=torch.int64, device=device)
        super().__init__(size, page_size, dtype, device, kvcache, need_sort)

    def clear(self) -> None:
        """Free every slot, as a flush does; the lent stay away."""
        super().clear()
        self.free_pages = self.free_pages[~torch.isin(self.free_pages, self.lent)]
        self.free_extra = torch.cat([self._grown_ids(), self.leased])

    def _grown_ids(self) -> torch.Tensor:
        first = self.num_pages + 1
        return torch.arange(first, first + self.grown, dtype=torch.int64, device=self.device)

    def start_layout(self, grown: int, leasable: int) -> None:
        """Forget all leases and offer `grown` grown slots; nobody may use an extra slot.

        `leasable`: slots that peers could lend at most.
        """
        assert not self.extra_in_use, f"{self.extra_in_use} extra slots are in use"
        self.take_home(self.lent)
        self.grown, self.leasable = grown, leasable
        self.leased = self.leased[:0]
        self.free_extra = self._grown_ids()

    @property
    def extra_in_use(self) -> int:
        return self.grown + len(self.leased) - len(self.free_extra)

    # Leases

    def lease(self, ids: torch.Tensor) -> None:
        """Offer slots that peers have lent, under their `ids` here."""
        self.leased = torch.cat([self.leased, ids])
        self.free_extra = torch.cat([self.free_extra, ids])

    def return_leases(self) -> torch.Tensor:
        """Give up all leases, whose ids are returned; none may be in use."""
        assert not self.extra_in_use, f"{self.extra_in_use} extra slots are in use"
        ids, self.leased = self.leased, self.leased[:0]
        self.free_extra = self._grown_ids()
        return ids

    def lend(self, count: int) -> torch.Tensor:
        """Part with up to `count` free own slots."""
        self.merge_and_sort_free()
        slots, self.free_pages = self.free_pages[:count], self.free_pages[count:]
        self.lent = torch.cat([self.lent, slots])
        return slots

    def take_home(self, slots: torch.Tensor) -> None:
        """Lent slots are free again."""
        self.lent = self.lent[~torch.isin(self.lent, slots)]
        self.free_page_ids(slots)

    # Requests

    @property
    def request_tokens(self) -> int:
        """The most tokens of prompt and output of one request that the own slots hold."""
        return (self.num_pages - SPARE_SLOTS) * self.page_size

    def tokens_wanted(self, req: Any) -> int:
        """Prompt and output of a request when it is complete."""
        return len(req.origin_input_ids) + req.sampling_params.max_new_tokens

    def slots_wanted(self, req: Any) -> int:
        """What `tokens_wanted` fill."""
        return slots_filled(self.tokens_wanted(req), self.page_size)

    def is_long(self, req: Any) -> bool:
        """Whether the request needs more than this worker's own slots."""
        return self.tokens_wanted(req) > self.request_tokens

    def alloc_for_requests(
        self, tree_cache: Any, reqs: list, tokens_per_req: list[int], last_locs: torch.Tensor
    ) -> torch.Tensor | None:
        """Locations for each request in turn, [sum(tokens_per_req)] int64; None if memory is short.

        `last_locs`: location of each request's last token so far, -1 before the first; the rest of
        its slot is filled first.
        """
        page, left = self.page_size, len(self.free_extra)
        ends = (last_locs + 1).tolist()
        counts, extra = [], []
        for req, tokens, end in zip(reqs, tokens_per_req, ends, strict=True):
            counts.append(missing_slots(end, tokens, page))
            extra.append(min(counts[-1], left) if left and self.is_long(req) else 0)
            left -= extra[-1]
        own = self._alloc_slots(tree_cache, sum(counts) - sum(extra))
        if own is None:
            return None
        slots = own if not any(extra) else self._mix(own, counts, extra)
        if page == 1:
            return slots
        each = np.split(slots.cpu().numpy(), np.cumsum(counts)[:-1])
        locations = [
            next_locations(end, tokens, part, page)
            for end, tokens, part in zip(ends, tokens_per_req, each, strict=True)
        ]
        return torch.from_numpy(np.concatenate(locations)).to(self.device)

    def _alloc_slots(self, tree_cache: Any, count: int) -> torch.Tensor | None:
        self.evict_to_free_tokens(tree_cache, count * self.page_size)
        if count > len(self.free_pages):
            self.merge_and_sort_free()
        if count > len(self.free_pages):
            return None
        slots, self.free_pages = self.free_pages[:count], self.free_pages[count:]
        return slots

    def _mix(self, own: torch.Tensor, counts: list[int], extra: list[int]) -> torch.Tensor:
        """The slots of each request in turn, the first of them extra ones."""
        parts = []
        for count, more in zip(counts, extra, strict=True):
            parts += [self.free_extra[:more], own[: count - more]]
            self.free_extra, own = self.free_extra[more:], own[count - more :]
        return torch.cat(parts)

    def _release_page_ids(self, *page_ids: torch.Tensor) -> None:
        # All that upstream frees comes through here.
        slots = torch.cat(page_ids)
        if self.extra_in_use:
            is_extra = slots > self.num_pages
            self.free_extra = torch.cat([self.free_extra, slots[is_extra]])
            slots = slots[~is_extra]
        super()._release_page_ids(slots)

    def check_decode_capacity(
        self, *, num_tokens, tree_cache, requests=None, spec_algorithm=None
    ) -> bool:
        if len(self.free_extra) and requests is not None:
            # Of the requests whose last slot is full; `num_tokens` is a slot for each of them.
            full = [req for req in requests if req.kv.kv_committed_len % self.page_size == 0]
            long = min(sum(map(self.is_long, full)), len(self.free_extra))
            num_tokens = max(0, num_tokens - long * self.page_size)
        return super().check_decode_capacity(
            num_tokens=num_tokens,
            tree_cache=tree_cache,
            requests=requests,
            spec_algorithm=spec_algorithm,
        )

    def max_new_tokens_for_memory(self, input_tokens, max_new_tokens, *, token_capacity, **kwargs):
        capacity = token_capacity + (self.grown + self.leasable) * self.page_size
        return super().max_new_tokens_for_memory(
            input_tokens, max_new_tokens, token_capacity=capacity, **kwargs
        )

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        return ElasticPrefillBudget(
            self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens
        )
