"""Turns a worker's spare weight pages into KV rows and back, as its degree changes."""

from __future__ import annotations

import mmap

from amoeba_sglang.kv.ranges import KVRanges
from amoeba_sglang.layout.weight_pages import WeightPages
from amoeba_sglang.memory.base import AddressRange, MemoryFault
from amoeba_sglang.memory.host import check_mappings
from amoeba_sglang.model.weight_store import WeightStore
from amoeba_sglang.plan.capacity import (
    MOST_WASTE,
    growth_pages,
    largest_frugal_page,
    wasted_share,
)


def describe_waste(pages: WeightPages, layers: int) -> str | None:
    """What to tell a user whose page size turns too little of the weights into KV, or None."""
    waste = wasted_share(pages, layers)
    if waste <= MOST_WASTE:
        return None
    better = largest_frugal_page(pages, layers, MOST_WASTE, mmap.PAGESIZE)
    advice = "no page size does" if better is None else f"use {better >> 10}"
    return (
        f"--amoeba-page-size-kib {pages.page_size >> 10}: {waste:.0%} of the weight memory that a "
        f"merge frees does not become KV memory; to waste less than {MOST_WASTE:.0%}, {advice}"
    )


class PageExchange:
    """The weight store and the KV pool of one worker, which share their pages.

    `peers`: the opened pages of the other workers of the group, by index in it.
    """

    def __init__(
        self, ranges: KVRanges, store: WeightStore, peers: dict[int, AddressRange]
    ) -> None:
        self._ranges, self._store, self._peers = ranges, store, peers
        self._growth = {
            degree: growth_pages(store.pages, degree, ranges.layer_num)
            for degree in store.pages.chain.degrees
        }

    def grown_slots(self, degree: int) -> int:
        """Joint slots that an instance of `degree` has beyond its workers' own pools."""
        return degree * (self._ranges.rows_with(self._growth[degree]) - self._ranges.base_rows)

    def refusal(self, before: int, after: int) -> str | None:
        """Why this worker's limits do not allow the change, or None; nothing has changed."""
        lent = self._lent(after) if after > before else range(self._store.pages.total_pages)
        try:
            check_mappings(lent, self._ranges.memory.page_size)
        except MemoryFault as fault:
            return str(fault)
        return None

    def change(self, before: int, after: int) -> int:
        """Go from degree `before` to `after`; bytes of weights copied from the peers.

        No joint step may run meanwhile, and the views of the KV pool follow with `view_layer`.
        MemoryFault leaves everything as it was.
        """
        if before == after:
            return 0
        self._ranges.shrink()
        copied = 0
        try:
            if after < before:
                self._store.take_back(after)
                copied = self._store.copy_missing(before, self._peers)
            else:
                self._store.free(after)
            self._ranges.grow(self._lent(after))
        except MemoryFault:
            self.undo(before)
            raise
        return copied

    def undo(self, before: int) -> None:
        """Return to degree `before` from wherever `change` has got to.

        Nothing is copied: no step has written to a page that it moved. A fault in here is fatal.
        """
        self._ranges.shrink()
        if self._store.degree > before:
            self._store.take_back(before)
        elif self._store.degree < before:
            self._store.free(before)
        self._ranges.grow(self._lent(before))

    def _lent(self, degree: int) -> list[int]:
        count = self._growth[degree] * 2 * self._ranges.layer_num
        return self._store.lent_pages(degree)[:count]
