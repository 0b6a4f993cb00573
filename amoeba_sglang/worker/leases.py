"""Free slots of an instance's workers that go to its anchor while a long request needs them.

The anchor says in its step records how many slots it lacks; peers part with free slots of their own
in a later record; when no long request is left the anchor's record returns them all. Every worker
hears every record in the same step, so both sides always agree who has a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from amoeba_sglang.layout.locations import slots_filled
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.model.kv_allocator import SPARE_SLOTS, ElasticAllocator
from amoeba_sglang.model.step_record import StepRecord


@dataclass(frozen=True)
class Demand:
    """The requests of a scheduler before a step.

    `waiting`: not yet admitted, in order. `live`: gives those that hold KV; asked for only when
    leases depend on them, since it costs a walk over all.
    """

    waiting: Sequence[Any]
    live: Callable[[], list[Any]]


class Leases:
    """One worker's side of the leases of its instance, from one transformation to the next.

    `index`: of the worker in its instance of `degree`; the anchor has index 0.
    """

    def __init__(
        self,
        allocator: ElasticAllocator,
        tree_cache: Any,
        chain: DegreeChain,
        degree: int,
        index: int,
    ) -> None:
        self._allocator, self._tree_cache, self._chain = allocator, tree_cache, chain
        self._degree, self._index = degree, index
        self._asked = 0

    def has_news(self, missing: int) -> bool:
        """Whether peers must hear of this worker's leases although it has no rows to run.

        Nobody falls asleep while slots are away from home: an idle scheduler counts its slots.
        """
        return len(self._allocator.leased) > 0 or missing > 0

    def offer(self, demand: Demand, missing: int) -> dict[str, Any]:
        """The fields of the next step record that are about leases; slots change hands now."""
        if self._index:
            return {"slots_lent": self._lend(demand)}
        if self._must_return(demand):
            ids = self._allocator.return_leases().numpy()
            return {"slots_returned": ids - self._first_leased()}
        return {"slots_missing": missing}

    def missing(self, demand: Demand) -> int:
        """Slots that the anchor lacks for the first long request that waits; 0 for its peers."""
        allocator = self._allocator
        if self._index:
            return 0
        first = next((req for req in demand.waiting if allocator.is_long(req)), None)
        if first is None:
            return 0
        own = allocator.available_size() + self._tree_cache.evictable_size()
        own = own // allocator.page_size - self._kept(demand)
        have = len(allocator.free_extra) + max(0, own)
        lacking = allocator.slots_wanted(first) + SPARE_SLOTS - have
        return max(0, min(lacking, allocator.leasable - len(allocator.leased)))

    def _must_return(self, demand: Demand) -> bool:
        if not len(self._allocator.leased):
            return False
        return not any(map(self._allocator.is_long, (*demand.waiting, *demand.live())))

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
        if not self._asked:
            return np.empty(0, dtype=np.int64)
        share = -(-self._asked // (self._degree - 1))
        kept = self._kept(demand)
        page = self._allocator.page_size
        self._allocator.evict_to_free_tokens(self._tree_cache, (share + kept) * page)
        spare = max(0, self._allocator.available_size() // page - kept)
        return self._allocator.lend(min(share, spare)).numpy()

    def settle(self, records: list[StepRecord]) -> None:
        """Carry out what the records of one step say, in rank order."""
        anchor = records[0]
        self._asked = anchor.slots_missing
        if self._index == 0:
            lent = [
                self._chain.joint_slots(self._degree, index, record.slots_lent)
                for index, record in enumerate(records)
            ]
            ids = np.concatenate(lent) + self._first_leased()
            if len(ids):
                self._allocator.lease(torch.from_numpy(ids))
        elif len(anchor.slots_returned):
            homes = [self._chain.home(self._degree, g) for g in anchor.slots_returned.tolist()]
            mine = [slot for index, slot in homes if index == self._index]
            self._allocator.take_home(torch.tensor(mine, dtype=torch.int64))

    def _first_leased(self) -> int:
        return self._allocator.num_pages + 1 + self._allocator.grown
