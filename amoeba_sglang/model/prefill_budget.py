"""What a prefill pass may admit: long requests are offered extra slots, short ones never."""

from __future__ import annotations

from sglang.srt.mem_cache.prefill_budget import PrefillBudget


class ElasticPrefillBudget(PrefillBudget):
    """Upstream's budget over the own slots, and one over the free extra slots of an
    ElasticAllocator. What a closed one has left belongs to the long requests that hold KV already.
    """

    def __init__(self, allocator, tree_cache, *, num_mixed_decode_tokens=0):
        super().__init__(allocator, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)
        # The extra part of upstream's two offsets; the free ones are counted anew each time, since
        # a preemption frees some.
        self._total_extra = self._current_extra = 0
        self._running_extra: dict[str, float] = {}
        self._long = self._held_back = False

    def consider(self, req) -> None:
        self._long = self.allocator.is_long(req)
        holds_kv = req.kv is not None and req.kv.holds_kv
        self._held_back = self._long and self.allocator.closed and not holds_kv

    def reserve_running(self, req, tokens: float) -> None:
        taken = min(tokens, self._free_total) if self.allocator.is_long(req) else 0
        self._running_extra[req.rid] = taken
        self._total_extra += taken
        self.total_offset += tokens - taken

    def release_running(self, req, tokens: float) -> None:
        taken = self._running_extra.pop(req.rid)
        self._total_extra -= taken
        self.total_offset -= tokens - taken

    @property
    def remaining_total(self):
        if self._held_back:
            return 0
        return super().remaining_total + (self._free_total if self._long else 0)

    @property
    def remaining_current(self):
        return super().remaining_current + (self._free_current if self._long else 0)

    @property
    def _free_total(self) -> float:
        return self._free_extra - self._total_extra

    @property
    def _free_current(self) -> float:
        return self._free_extra - self._current_extra

    @property
    def _free_extra(self) -> int:
        return len(self.allocator.free_extra) * self.page_size

    def reserve(self, extend_input_len: int, max_new_tokens: int, **kwargs) -> None:
        total, current = self.total_offset, self.current_offset
        super().reserve(extend_input_len, max_new_tokens, **kwargs)
        if self._long:
            taken = min(self.total_offset - total, self._free_total)
            self._total_extra += taken
            self.total_offset -= taken
            taken = min(self.current_offset - current, self._free_current)
            self._current_extra += taken
            self.current_offset -= taken
