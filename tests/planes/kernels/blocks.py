"""The pools of a block in one piece of host memory, and what a change of layout must make of it."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.planes.kernels.launches import UnitAddresses

GAP = 48
"""Bytes between K's and V's of any layers and workers, which nobody may touch."""


def layouts(chain: DegreeChain, workers: int) -> Iterator[Layout]:
    """Every layout of a block."""
    for degrees in product(chain.degrees, repeat=workers):
        try:
            yield Layout(degrees)
        except LayoutError:
            continue


def changes(chain: DegreeChain) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every change, as degrees before and after, of every block that users may ask for."""
    return [
        (before.degrees, before.change(chain, ranks, degree).degrees)
        for workers in chain.degrees[1:]
        for before in layouts(chain, workers)
        for ranks, degree in before.orders(chain)
        if len(ranks) == workers
    ]


class Block:
    """Pools with `rows[worker]` rows, full of random bytes."""

    def __init__(
        self, chain: DegreeChain, rows: Sequence[int], unit_bytes: tuple[int, int], layers: int
    ) -> None:
        self._chain, self._unit_bytes = chain, unit_bytes
        sizes = np.array(
            [[count * chain.finest * size for size in unit_bytes] for count in rows]
        ).repeat(layers, axis=0)
        ends = (sizes + GAP).cumsum().reshape(len(rows), layers, 2)
        self._room = np.random.default_rng(7).integers(0, 256, ends.max() + 64, dtype=np.uint8)
        aligned = -self._room.ctypes.data % 16 + GAP
        self._starts = aligned + ends - sizes.reshape(ends.shape) - GAP
        self.bytes = self._room[: ends.max() + 64]
        self.pools = [
            UnitAddresses(starts + self._room.ctypes.data, chain.finest, count, unit_bytes)
            for starts, count in zip(self._starts, rows, strict=True)
        ]

    def after(
        self,
        before: tuple[int, ...],
        after: tuple[int, ...],
        live: Sequence[np.ndarray],
        layers: Sequence[int],
    ) -> np.ndarray:
        """All bytes as they must be after the move of `layers`: by place, unit after unit."""
        result = self.bytes.copy()
        for home, slots in enumerate(live):
            for unit, layer, which in product(range(self._chain.finest), layers, range(2)):
                source = self._chain.place(before[home], home, unit)
                target = self._chain.place(after[home], home, unit)
                for slot in slots.tolist():
                    moved = self.bytes[self._unit(source, layer, which, slot)]
                    result[self._unit(target, layer, which, slot)] = moved
        return result

    def _unit(self, where: tuple[int, int], layer: int, which: int, slot: int) -> slice:
        worker, place = where
        size = self._unit_bytes[which]
        start = self._starts[worker, layer, which] + (slot * self._chain.finest + place) * size
        return slice(start, start + size)
