"""Which slots a request may use: its worker's own, and for a long one also the grown ones."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.prefill_budget import PrefillBudget


class ElasticAllocator(TokenToKVPoolAllocator):
    """Upstream's allocator of a worker's own slots 1..size, plus grown slots above `size`.

    Grown slots lie in memory that goes away at the next transformation, so only a request that is
    too long for the worker's own slots gets them, before its own ones. They are the anchor's alone;
    `available_size` and the tree never see them.
    """

    def clear(self) -> None:
        super().clear()
        self._set_grown(getattr(self, "grown", 0))

    def set_grown(self, count: int) -> None:
        """Offer `count` grown slots, numbered from size + 1 on, in place of the ones before."""
        assert not self.grown_in_use, f"{self.grown_in_use} grown slots are in use"
        self._set_grown(count)

    def _set_grown(self, count: int) -> None:
        self.grown = count
        self.free_grown = torch.arange(
            self.size + 1, self.size + 1 + count, dtype=torch.int64, device=self.device
        )

    @property
    def grown_in_use(self) -> int:
        return self.grown - len(self.free_grown)

    @property
    def request_tokens(self) -> int:
        """The most tokens of prompt and output of one request that the own slots hold."""
        # SGLang admits a request only when more than its tokens and one spare slot are free.
        return self.size - 2

    def is_long(self, req: Any) -> bool:
        """Whether the request needs more than this worker's own slots."""
        wanted = len(req.origin_input_ids) + req.sampling_params.max_new_tokens
        return wanted > self.request_tokens

    def alloc_for_requests(self, tree_cache, reqs, tokens_per_req):
        """Slots for each request in turn, [sum(tokens_per_req)] int64; None if memory is short."""
        if not self.grown:
            return super().alloc_for_requests(tree_cache, reqs, tokens_per_req)
        grown, left = [], len(self.free_grown)
        for req, tokens in zip(reqs, tokens_per_req, strict=True):
            grown.append(min(tokens, left) if self.is_long(req) else 0)
            left -= grown[-1]
        own_tokens = sum(tokens_per_req) - sum(grown)
        self.evict_to_free_tokens(tree_cache, own_tokens)
        own = self.alloc(own_tokens)
        if own is None:
            return None
        parts = []
        for tokens, count in zip(tokens_per_req, grown, strict=True):
            parts += [self.free_grown[:count], own[: tokens - count]]
            self.free_grown, own = self.free_grown[count:], own[tokens - count :]
        return torch.cat(parts)

    def free(self, free_index: torch.Tensor) -> None:
        if self.grown and self.free_group is None:
            is_grown = free_index > self.size
            self.free_grown = torch.cat([self.free_grown, free_index[is_grown]])
            free_index = free_index[~is_grown]
        super().free(free_index)

    def check_decode_capacity(
        self, *, num_tokens, tree_cache, requests=None, spec_algorithm=None
    ) -> bool:
        # One token a request at most: with page_size 1 a request without a spare slot needs one.
        if self.grown and requests is not None:
            long = sum(self.is_long(req) for req in requests)
            num_tokens = max(0, num_tokens - min(long, len(self.free_grown)))
        return super().check_decode_capacity(
            num_tokens=num_tokens,
            tree_cache=tree_cache,
            requests=requests,
            spec_algorithm=spec_algorithm,
        )

    def max_new_tokens_for_memory(self, input_tokens, max_new_tokens, *, token_capacity, **kwargs):
        return super().max_new_tokens_for_memory(
            input_tokens, max_new_tokens, token_capacity=token_capacity + self.grown, **kwargs
        )

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        if not self.grown:
            return super().create_prefill_budget(
                tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens
            )
        return GrownPrefillBudget(self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)


class GrownPrefillBudget(PrefillBudget):
    """Upstream's budget over the own slots; a long request is also offered the grown ones."""

    def __init__(self, allocator: ElasticAllocator, tree_cache, *, num_mixed_decode_tokens=0):
        super().__init__(allocator, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)
        self._grown_total = self._grown_now = len(allocator.free_grown)
        self._long = False

    def consider(self, req) -> None:
        self._long = self.allocator.is_long(req)

    def reserve_running(self, req, tokens: int) -> None:
        taken = min(tokens, max(0, self._grown_total)) if self.allocator.is_long(req) else 0
        self._grown_total -= taken
        self.total_offset += tokens - taken

    @property
    def remaining_total(self):
        return super().remaining_total + (self._grown_total if self._long else 0)

    @property
    def remaining_current(self):
        return super().remaining_current + (self._grown_now if self._long else 0)

    def reserve(self, extend_input_len: int, max_new_tokens: int, **kwargs) -> None:
        total, current = self.total_offset, self.current_offset
        super().reserve(extend_input_len, max_new_tokens, **kwargs)
        if self._long:
            taken = min(self.total_offset - total, self._grown_total)
            self._grown_total -= taken
            self.total_offset -= taken
            taken = min(self.current_offset - current, self._grown_now)
            self._grown_now -= taken
            self.current_offset -= taken
