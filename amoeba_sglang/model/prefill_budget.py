"""What a prefill pass may admit: long requests are offered extra slots, short ones never."""

from __future__ import annotations

from sglang.srt.mem_cache.prefill_budget import PrefillBudget


class ElasticPrefillBudget(PrefillBudget):
    """Upstream's budget over the own slots, and one over the free extra slots of an
    ElasticAllocator."""

    def __init__(self, allocator, tree_cache, *, num_mixed_decode_tokens=0):
        super().__init__(allocator, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)
        self._extra_total = self._extra_now = len(allocator.free_extra) * allocator.page_size
        self._long = False

    def consider(self, req) -> None:
        self._long = self.allocator.is_long(req)

    def reserve_running(self, req, tokens: int) -> None:
        taken = min(tokens, self._extra_total) if self.allocator.is_long(req) else 0
        self._extra_total -= taken
        self.total_offset += tokens - taken

    @property
    def remaining_total(self):
        return super().remaining_total + (self._extra_total if self._long else 0)

    @property
    def remaining_current(self):
        return super().remaining_current + (self._extra_now if self._long else 0)

    def reserve(self, extend_input_len: int, max_new_tokens: int, **kwargs) -> None:
        total, current = self.total_offset, self.current_offset
        super().reserve(extend_input_len, max_new_tokens, **kwargs)
        if self._long:
            taken = min(self.total_offset - total, self._extra_total)
            self._extra_total -= taken
            self.total_offset -= taken
            taken = min(self.current_offset - current, self._extra_now)
            self._extra_now -= taken
            self.current_offset -= taken
