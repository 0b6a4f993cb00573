"""Turns a worker's spare weight pages into KV rows and back, as its degree changes."""

from collections.abc import Iterable

from amoeba_sglang.control.layout.capacity import (
    MOST_WASTE,
    growth_pages,
    largest_frugal_page,
    wasted_share,
)
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.memory.base import AddressRange
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore


def describe_waste(pages: WeightPages, layers: int, smallest: int) -> str | None:
    """What to tell a user whose page size keeps too much memory from weights and KV, or None.
    `smallest`: bytes of the smallest page that there is."""
    waste = wasted_share(pages, layers)
    if waste <= MOST_WASTE:
        return None
    better = largest_frugal_page(pages, layers, MOST_WASTE, smallest)
    advice = "no page size does" if better is None else f"use {better >> 10}"
    return (
        f"--amoeba-page-size-kib {pages.page_size >> 10}: {waste:.0%} of the weight memory that a "
        f"merge frees does not become KV memory; to waste less than {MOST_WASTE:.0%}, {advice}"
    )


class NoExchange:
    """Weights stay, and no KV pool grows."""

    def grown_slots(self, degree: int) -> int:
        return 0

    def refusal(self, before: int, after: int) -> str | None:
        return None

    def shrink(self) -> None:
        """Nothing."""

    def grow(self, degree: int) -> None:
        """Nothing."""

    def move_layers(self, layers: Iterable[int], degree: int) -> int:
        return 0


class PageExchange:
    """The weight store and the KV pool of one worker, which share their pages.

    `peers`: the opened pages of the other workers of the group, by index in it; `peer_weights`:
    their stores.
    """

    def __init__(
        self, ranges: KVRanges, store: WeightStore, peers: dict[int, AddressRange]
    ) -> None:
        self._ranges, self._store = ranges, store
        # Made once: a tensor of an address takes 10 us, and a split has up to 180 pieces.
        self.peer_weights = {index: store.weights_of(peer) for index, peer in peers.items()}
        self._growth = {
            degree: growth_pages(store.pages, degree, ranges.layer_num)
            for degree in store.pages.chain.degrees
        }

    def grown_rows(self, degree: int) -> int:
        """Rows of every half of the KV when it has grown at `degree`."""
        return self._ranges.rows_with(self._growth[degree])

    def grown_slots(self, degree: int) -> int:
        """Joint slots that an instance of `degree` has beyond its workers' own pools."""
        return degree * (self.grown_rows(degree) - self._ranges.base_rows)

    def refusal(self, before: int, after: int) -> str | None:
        """Why this worker's limits do not allow the change, or None; nothing has changed."""
        lent = self._lent(after) if after > before else range(self._store.pages.total_pages)
        return self._ranges.memory.refusal(lent)

    def shrink(self) -> None:
        """Take all grown KV pages back, before any layer of this worker moves."""
        self._ranges.shrink()

    def move_layers(self, layers: Iterable[int], degree: int) -> int:
        """Bring the MLP weights of `layers` to `degree`; bytes copied from the peers.

        Nobody may compute with these layers meanwhile. MemoryFault leaves everything as it was.
        """
        matrices = [matrix for layer in layers for matrix in self._store.pages.of_layer(layer)]
        present = self._store.degrees[matrices[0]]
        if degree > present:
            self._store.free(matrices, degree)
        elif degree < present:
            return self._store.take_back(matrices, degree, self.peer_weights)
        return 0

    def grow(self, degree: int) -> None:
        """Map the pages that no layer needs at `degree`, where all are now, behind the KV of every
        layer; views of the pool follow with `view_layer`. MemoryFault leaves the pool shrunk."""
        assert set(self._store.degrees) == {degree}, (self._store.degrees, degree)
        self._ranges.grow(self._lent(degree))

    def _lent(self, degree: int) -> list[int]:
        count = self._growth[degree] * 2 * self._ranges.layer_num
        return self._store.lent_pages(degree)[:count]
