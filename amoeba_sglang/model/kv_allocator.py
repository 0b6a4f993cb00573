"""Which slots a request may use: its worker's own, and for a long one also extra ones."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator

from amoeba_sglang.model.prefill_budget import ElasticPrefillBudget

# SGLang admits a request only when more than its tokens and one spare slot are free.
SPARE_SLOTS = 2


class ElasticAllocator(TokenToKVPoolAllocator):
    """Upstream's allocator of a worker's own slots 1..size, plus extra slots above `size`.

    Extra slots are grown ones (size + 1 .. size + grown), in memory that a merge freed from
    weights, and leased ones, a peer's own. All go away at the next transformation, so only a
    request that is too long for the worker's own slots gets them, before its own ones; the tree and
    `available_size` never see them. The other side of a lease are `lent` slots, which belong to
    nobody here until they come home.
    """

    def __init__(
        self, size: int, dtype: torch.dtype, device: str, kvcache: Any, need_sort: bool
    ) -> None:
        # Before upstream's constructor, which clears.
        self.grown = self.leasable = 0
        self.leased = self.lent = torch.empty(0, dtype=torch.int64, device=device)
        super().__init__(size, dtype, device, kvcache, need_sort)

    def clear(self) -> None:
        """Free every slot, as a flush does; the lent stay away."""
        super().clear()
        self.free_pages = self.free_pages[~torch.isin(self.free_pages, self.lent)]
        self.free_extra = torch.cat([self._grown_ids(), self.leased])

    def _grown_ids(self) -> torch.Tensor:
        first = self.size + 1
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
        if self.need_sort:
            self.merge_and_sort_free()
        slots, self.free_pages = self.free_pages[:count], self.free_pages[count:]
        self.lent = torch.cat([self.lent, slots])
        return slots

    def take_home(self, slots: torch.Tensor) -> None:
        """Lent slots are free again."""
        if len(slots):
            self.lent = self.lent[~torch.isin(self.lent, slots)]
            super().free(slots)

    # Requests

    @property
    def request_tokens(self) -> int:
        """The most tokens of prompt and output of one request that the own slots hold."""
        return self.size - SPARE_SLOTS

    def tokens_wanted(self, req: Any) -> int:
        """Prompt and output of a request when it is complete."""
        return len(req.origin_input_ids) + req.sampling_params.max_new_tokens

    def is_long(self, req: Any) -> bool:
        """Whether the request needs more than this worker's own slots."""
        return self.tokens_wanted(req) > self.request_tokens

    def alloc_for_requests(self, tree_cache, reqs, tokens_per_req):
        """Slots for each request in turn, [sum(tokens_per_req)] int64; None if memory is short."""
        if not len(self.free_extra):
            return super().alloc_for_requests(tree_cache, reqs, tokens_per_req)
        extra, left = [], len(self.free_extra)
        for req, tokens in zip(reqs, tokens_per_req, strict=True):
            extra.append(min(tokens, left) if self.is_long(req) else 0)
            left -= extra[-1]
        own_tokens = sum(tokens_per_req) - sum(extra)
        self.evict_to_free_tokens(tree_cache, own_tokens)
        own = self.alloc(own_tokens)
        if own is None:
            return None
        parts = []
        for tokens, count in zip(tokens_per_req, extra, strict=True):
            parts += [self.free_extra[:count], own[: tokens - count]]
            self.free_extra, own = self.free_extra[count:], own[tokens - count :]
        return torch.cat(parts)

    def free(self, free_index: torch.Tensor) -> None:
        if self.extra_in_use and self.free_group is None:
            is_extra = free_index > self.size
            self.free_extra = torch.cat([self.free_extra, free_index[is_extra]])
            free_index = free_index[~is_extra]
        super().free(free_index)

    def check_decode_capacity(
        self, *, num_tokens, tree_cache, requests=None, spec_algorithm=None
    ) -> bool:
        # One token a request at most: with page_size 1 a request without a spare slot needs one.
        if len(self.free_extra) and requests is not None:
            long = sum(self.is_long(req) for req in requests)
            num_tokens = max(0, num_tokens - min(long, len(self.free_extra)))
        return super().check_decode_capacity(
            num_tokens=num_tokens,
            tree_cache=tree_cache,
            requests=requests,
            spec_algorithm=spec_algorithm,
        )

    def max_new_tokens_for_memory(self, input_tokens, max_new_tokens, *, token_capacity, **kwargs):
        capacity = token_capacity + self.grown + self.leasable
        return super().max_new_tokens_for_memory(
            input_tokens, max_new_tokens, token_capacity=capacity, **kwargs
        )

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        return ElasticPrefillBudget(
            self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens
        )
