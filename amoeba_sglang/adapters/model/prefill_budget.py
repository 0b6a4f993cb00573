"""What a prefill pass may admit: the answers of an allocator's ledger, in upstream's words."""

from sglang.srt.mem_cache.prefill_budget import PrefillBudget


class ElasticPrefillBudget(PrefillBudget):
    """Short requests as upstream admits them, by estimates; long ones by all that they may take.

    Upstream's two offsets count what short requests are given in this pass or are expected to take.
    """

    def __init__(self, allocator, tree_cache, *, num_mixed_decode_tokens=0):
        super().__init__(allocator, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)
        self._ledger = allocator.ledger
        # Slots that those who run, or were admitted in this pass, may still take in their lives.
        self._short_rest = self._long_rest = 0
        # Slots that long ones are given in this pass.
        self._long_now = 0
        self._rests: dict[str, int] = {}
        self._req, self._long = None, False
        # Whether a prompt that has begun waits. Upstream takes it for part of any batch.
        self._parked = False

    def consider(self, req) -> None:
        self._req, self._long = req, self.allocator.is_long(req)

    def _rest(self, req) -> int:
        """Slots that it may still take; upstream has just locked its prefix if it has none yet."""
        holds_kv = req.kv is not None and req.kv.holds_kv
        held = req.kv.kv_allocated_len if holds_kv else req.prefix_len
        return self.allocator.claim(req, held).rest(self.page_size)

    def reserve_running(self, req, tokens: float) -> None:
        rest = self._rests[req.rid] = self._rest(req)
        if self.allocator.is_long(req):
            self._long_rest += rest
        else:
            self._short_rest += rest
            self.total_offset += tokens

    def release_running(self, req, tokens: float) -> None:
        rest = self._rests.pop(req.rid)
        if self.allocator.is_long(req):
            self._long_rest -= rest
        else:
            self._short_rest -= rest
            self.total_offset -= tokens

    @property
    def _own_room(self) -> int:
        return self._available_and_evictable() // self.page_size

    def _room_for_long(self) -> int:
        return self._ledger.room_for_long(self._own_room, self._short_rest, self._long_rest)

    @property
    def remaining_total(self):
        if self._long:
            return self._room_for_long() * self.page_size
        return self._total_for_short()

    def _total_for_short(self) -> float:
        room = self._ledger.room_for_short(self._own_room, self._long_rest)
        return room * self.page_size - self.total_offset

    @property
    def remaining_current(self):
        if not self._long:
            return self._now_for_short()
        extra = self._ledger.extra.free_count - self._long_now
        return super().remaining_current + extra * self.page_size

    def _now_for_short(self) -> float:
        overflow = max(0, self._long_now - self._ledger.extra.free_count)
        return super().remaining_current - overflow * self.page_size

    def has_capacity(self) -> bool:
        # Nothing is known yet of whom is considered next.
        for_long = self._ledger.beyond and self._room_for_long() > 0
        return for_long or min(self._total_for_short(), self._now_for_short()) > 0

    def check_prefill(self, *, total_tokens, chunk_limit, **kwargs):
        if self._parked:
            return False, None
        if not self._long:
            return super().check_prefill(
                total_tokens=total_tokens, chunk_limit=chunk_limit, **kwargs
            )
        return (True, chunk_limit) if self._fits_long() else (False, None)

    def _fits_long(self) -> bool:
        """Whether a long request has room for its whole life. Its prefix, which is locked now, must
        leave those that were admitted before it in this pass what they were given."""
        return self._rest(self._req) <= self._room_for_long() and self._now_for_short() >= 0

    def can_allocate_prefill(self, *, paged_input, **kwargs) -> bool:
        if self._parked or (self._long and not self._fits_long()):
            return False
        return super().can_allocate_prefill(paged_input=paged_input, **kwargs)

    def available_chunk_tokens(self, chunk_limit: int) -> int | None:
        """None: the prompt, which has begun, waits with what it has, and nobody else begins."""
        wanted = chunk_limit if self._long else super().available_chunk_tokens(chunk_limit)
        # What its last slot has left costs nothing.
        slack = -self._req.kv.kv_allocated_len % self.page_size
        tokens = min(wanted, int(self.remaining_current) + slack)
        self._parked = tokens <= 0
        return None if self._parked else tokens

    def reserve(self, extend_input_len: int, max_new_tokens: int, **kwargs) -> None:
        rest = self._rest(self._req)
        if self._long:
            self._long_rest += rest
            self._long_now += self.ceil_paged_tokens(extend_input_len) // self.page_size
        else:
            self._short_rest += rest
            super().reserve(extend_input_len, max_new_tokens, **kwargs)
