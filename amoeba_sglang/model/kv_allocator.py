"""Which slots a request may use: its worker's own, and for a long one also extra ones.

A slot is a KV page of `page_size` tokens, as in the layout; upstream's name for it is a page, and a
token's location is slot * page_size + offset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

from amoeba_sglang.layout.locations import (
    locations_at,
    missing_slots,
    next_locations,
    slots_filled,
    slots_of,
)
from amoeba_sglang.layout.slots import FIRST_LEASED
from amoeba_sglang.model.prefill_budget import ElasticPrefillBudget

# SGLang admits a request only when more than its tokens, its prompt rounded up to whole slots, and
# one spare slot are free.
SPARE_SLOTS = 2


class ElasticAllocator(PagedTokenToKVPoolAllocator):
    """Upstream's allocator of a worker's own slots 1..num_pages, plus extra slots above these.

    Extra slots are grown ones (num_pages + 1 .. num_pages + grown), in memory that a merge freed
    from weights, and leased ones (FIRST_LEASED and above), a peer's own. They may go away at the
    next transformation, so only a request that is too long for the worker's own slots gets them,
    before its own ones; the tree and `available_size` never see them. The other side of a lease are
    `lent` slots, which belong to nobody here until they come home.
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
        self._safe: Callable[[torch.Tensor], torch.Tensor] | None = None
        super().__init__(size, page_size, dtype, device, kvcache, need_sort)

    def clear(self) -> None:
        """Free every slot, as a flush does; the lent stay away."""
        super().clear()
        self.free_pages = self.free_pages[~torch.isin(self.free_pages, self.lent)]
        self._moved: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Free extra slots: those that may be given to requests, and those withheld.
        self.free_extra = self.withheld = self.leased[:0]
        self._offer(torch.cat([self._grown_ids(), self.leased]))

    def _grown_ids(self) -> torch.Tensor:
        first = self.num_pages + 1
        return torch.arange(first, first + self.grown, dtype=torch.int64, device=self.device)

    def start_layout(self, grown: int, leasable: int) -> None:
        """Offer `grown` grown slots, and the leases that there still are, to all long requests.

        `leasable`: slots that peers could lend at most.
        """
        held = self.held_extra
        grown_in_use = int((held < FIRST_LEASED).sum())
        assert not grown_in_use, f"{grown_in_use} grown slots are in use"
        assert self.num_pages + grown < FIRST_LEASED, (self.num_pages, grown)
        self.grown, self.leasable, self._safe = grown, leasable, None
        self.free_extra = self.withheld = self.leased[:0]
        self._offer(self._grown_ids())
        self._offer(self.leased[~torch.isin(self.leased, held)])

    @property
    def held_extra(self) -> torch.Tensor:
        """Extra slots that are not free, rising."""
        extra = torch.cat([self._grown_ids(), self.leased.sort().values])
        return extra[~torch.isin(extra, torch.cat([self.free_extra, self.withheld]))]

    @property
    def extra_in_use(self) -> int:
        return self.grown + len(self.leased) - len(self.free_extra) - len(self.withheld)

    # Slots that go away

    def close(self, safe: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """From now on give only those extra slots that `safe` marks with True, until `open` or a
        new layout: a transformation takes the others away."""
        self._safe = safe
        free, self.free_extra = self.free_extra, self.free_extra[:0]
        self._offer(free)

    def open(self) -> None:
        """Inverse of `close`, if the transformation does not take place."""
        self._safe = None
        withheld, self.withheld = self.withheld, self.withheld[:0]
        self._offer(withheld)

    @property
    def closed(self) -> bool:
        return self._safe is not None

    def _offer(self, extra: torch.Tensor) -> None:
        if self._safe is not None:
            safe = self._safe(extra)
            self.withheld = torch.cat([self.withheld, extra[~safe]])
            extra = extra[safe]
        self.free_extra = torch.cat([self.free_extra, extra])

    # Leases

    def lease(self, ids: torch.Tensor) -> None:
        """Offer slots that peers have lent, under their `ids` here."""
        self.leased = torch.cat([self.leased, ids])
        self._offer(ids)

    def end_leases(self, ids: torch.Tensor) -> None:
        """Give up these leases; none may be in use."""
        in_use = int(torch.isin(ids, self.held_extra).sum())
        assert not in_use, f"{in_use} leased slots are in use"
        self.leased = self.leased[~torch.isin(self.leased, ids)]
        self.free_extra = self.free_extra[~torch.isin(self.free_extra, ids)]
        self.withheld = self.withheld[~torch.isin(self.withheld, ids)]

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

    # Tokens that move to other slots of the same instance

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Note that the tokens of the extra slots `source` belong into `target`, which are not
        free. `source` stays in use until `finish_moves`."""
        if len(source):
            self._moved.append((source.to(torch.int64), target))

    @property
    def moves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(source, target) of all tokens whose KV is yet to be copied."""
        nothing = (self.leased[:0], self.leased[:0])
        sources, targets = zip(nothing, *self._moved, strict=True)
        return torch.cat(sources), torch.cat(targets)

    def finish_moves(self) -> None:
        """All workers of the instance have copied `moves`."""
        source, _ = self.moves
        self._moved = []
        self.free_page_ids(source)

    def prepare_checkpoint(self, req: Any, kv_row: torch.Tensor) -> int:
        """How many tokens of `kv_row` the tree may own: of a long request that has ended as many
        full slots as fit into the free own ones, to which they move."""
        if not self.is_long(req):
            return len(kv_row)
        if not req.finished():
            return 0
        page = self.page_size
        slots = torch.from_numpy(slots_of(kv_row.cpu().numpy(), page))
        strays = (slots[: len(kv_row) // page] > self.num_pages).nonzero().flatten()
        room = 0 if self.closed else self.available_size() // page
        kept = int(strays[room]) * page if len(strays) > room else len(kv_row)
        self.put_into(kv_row, strays[:room], self.take_own(min(room, len(strays))))
        return kept

    def put_into(self, kv_row: torch.Tensor, numbers: torch.Tensor, target: torch.Tensor) -> None:
        """Let the tokens in the `numbers`-th slots of a row move to the slots `target`."""
        slots = torch.from_numpy(slots_of(kv_row.cpu().numpy(), self.page_size))
        self.move(slots[numbers], target)
        slots[numbers] = target.cpu()
        locations = locations_at(slots.numpy(), 0, len(kv_row), self.page_size)
        kv_row.copy_(torch.from_numpy(locations))

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
        own_count = sum(counts) - sum(extra)
        self.evict_to_free_tokens(tree_cache, own_count * page)
        own = self.take_own(own_count)
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

    def take_own(self, count: int) -> torch.Tensor | None:
        """`count` of the free own slots; None if there are fewer."""
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
            parts += [self.take_extra(more), own[: count - more]]
            own = own[count - more :]
        return torch.cat(parts)

    def take_extra(self, count: int) -> torch.Tensor:
        """The first `count` of the free extra slots, of which there are so many."""
        slots, self.free_extra = self.free_extra[:count], self.free_extra[count:]
        return slots

    def _release_page_ids(self, *page_ids: torch.Tensor) -> None:
        # All that upstream frees comes through here.
        slots = torch.cat(page_ids)
        if self.extra_in_use:
            is_extra = slots > self.num_pages
            self._offer(slots[is_extra])
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
