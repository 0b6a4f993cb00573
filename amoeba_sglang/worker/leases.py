"""Free slots of an instance's workers that go to its anchor while a long request needs them.

The anchor says in its step records how many slots it lacks; peers part with free slots of their own
in a later record; when no long request is left the anchor's record returns them all, and before
that what was lent for an order that is not carried out. Every worker hears every record in the same
step, so both sides always agree who has a slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from amoeba_sglang.layout.locations import slots_filled
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.model.kv_allocator import SPARE_SLOTS, ElasticAllocator
from amoeba_sglang.model.step_record import StepRecord
from amoeba_sglang.plan.relocation import kept_width
from amoeba_sglang.worker.demand import Demand
from amoeba_sglang.worker.relocation import Relocation


class Leases:
    """One worker's side of the leases of its instance, from one transformation to the next.

    `worker`: its index in its group. The first worker of an instance is the anchor. `relocation`:
    the anchor's, while an order waits for its vote.
    """

    def __init__(
        self,
        allocator: ElasticAllocator,
        tree_cache: Any,
        chain: DegreeChain,
        degree: int,
        worker: int,
    ) -> None:
        self._allocator, self._tree_cache, self._chain = allocator, tree_cache, chain
        self._degree, self._worker = degree, worker
        self._anchor, self._place = worker // degree * degree, worker % degree
        self._asked, self._lenders = 0, degree
        self.relocation: Relocation | None = None
        # What has been lent for the sake of an order only, and whether the next answer is to that.
        self._borrowed, self._borrowing = allocator.leased[:0], False

    @property
    def is_anchor(self) -> bool:
        return not self._place

    def has_news(self, missing: int) -> bool:
        """Whether peers must hear of this worker's leases although it has no rows to run.

        Nobody falls asleep while slots are away from home: an idle scheduler counts its slots.
        """
        allocator = self._allocator
        undecided = self.relocation is not None and self.relocation.verdict is None
        return missing > 0 or undecided or len(allocator.leased) + len(allocator.moves[0]) > 0

    def offer(self, demand: Demand, missing: int) -> dict[str, Any]:
        """The fields of the next step record that are about leases; slots change hands now."""
        if self._place:
            return {"slots_lent": self._lend(demand)}
        if self.relocation is not None and self.relocation.verdict is None:
            fields = self.relocation.offer(demand, self._own_room(demand))
        elif self._must_return(demand):
            fields = {"slots_returned": self._allocator.leased.numpy()}
            self._allocator.end_leases(self._allocator.leased)
        elif self.relocation is None and len(self._borrowed):
            # The order is not carried out: who has not used it gives it back.
            free = torch.isin(self._borrowed, self._allocator.free_extra)
            fields = {"slots_returned": self._borrowed[free].numpy()}
            self._allocator.end_leases(self._borrowed[free])
            self._borrowed = self._borrowed[:0]
        else:
            fields = {"slots_missing": missing}
        source, target = self._allocator.moves
        return {**fields, "moved_from": source.numpy(), "moved_to": target.numpy()}

    def missing(self, demand: Demand) -> int:
        """Slots that the anchor lacks for the first long request that waits; 0 for its peers."""
        allocator = self._allocator
        if self._place or allocator.closed:
            return 0
        first = next((req for req in demand.waiting if allocator.is_long(req)), None)
        if first is None:
            return 0
        have = len(allocator.free_extra) + max(0, self._own_room(demand))
        lacking = allocator.slots_wanted(first) + SPARE_SLOTS - have
        return max(0, min(lacking, allocator.leasable - len(allocator.leased)))

    def _must_return(self, demand: Demand) -> bool:
        allocator = self._allocator
        if not len(allocator.leased) or allocator.closed or allocator.extra_in_use:
            return False
        return not any(map(allocator.is_long, (*demand.waiting, *demand.live())))

    def _own_room(self, demand: Demand) -> int:
        """Own slots that are free or can be, without those that short requests may still take."""
        free = self._allocator.available_size() + self._tree_cache.evictable_size()
        return free // self._allocator.page_size - self._kept(demand)

    def _kept(self, demand: Demand) -> int:
        """Own slots that live short requests may still take."""
        allocator = self._allocator
        return sum(
            allocator.slots_wanted(req) - slots_filled(req.kv.kv_allocated_len, allocator.page_size)
            for req in demand.live()
            if not allocator.is_long(req)
        )

    def _lend(self, demand: Demand) -> np.ndarray:
        """Own slots for what the anchor lacked a step ago; what is not lent is asked again."""
        if not self._asked or self._place >= self._lenders:
            return np.empty(0, dtype=np.int64)
        share = -(-self._asked // (self._lenders - 1))
        kept = self._kept(demand)
        page = self._allocator.page_size
        self._allocator.evict_to_free_tokens(self._tree_cache, (share + kept) * page)
        spare = max(0, self._allocator.available_size() // page - kept)
        return self._allocator.lend(min(share, spare)).numpy()

    def settle(self, records: list[StepRecord]) -> None:
        """Carry out what the records of one step say, in rank order."""
        anchor = records[0]
        self._asked, self._lenders = anchor.slots_missing, anchor.lenders or self._degree
        if not self._place:
            lent = [
                self._chain.leased_ids(self._anchor + place, record.slots_lent)
                for place, record in enumerate(records)
            ]
            ids = np.concatenate(lent)
            if len(ids):
                self._allocator.lease(torch.from_numpy(ids))
                if self._borrowing:
                    self._borrowed = torch.cat([self._borrowed, torch.from_numpy(ids)])
            self._borrowing = anchor.lenders > 0
        elif len(anchor.slots_returned):
            mine = self._chain.leased_from(self._worker, anchor.slots_returned)
            home = self._chain.lent_slots(anchor.slots_returned[mine])
            self._allocator.take_home(torch.from_numpy(home))

    def leave(self, after: int) -> None:
        """End the leases that do not outlast the change of the instance to degree `after`; nobody
        of the instance uses them any more."""
        width, allocator = kept_width(self._degree, after, self._anchor), self._allocator
        if self._place >= width:
            allocator.take_home(allocator.lent)
        elif not self._place:
            ids = allocator.leased
            kept = torch.zeros_like(ids, dtype=torch.bool)
            for worker in range(self._anchor + 1, self._anchor + width):
                kept |= self._chain.leased_from(worker, ids)
            allocator.end_leases(ids[~kept])
