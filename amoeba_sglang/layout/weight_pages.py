"""Page arithmetic: which pages of its elastic weights a worker keeps, frees and refills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from amoeba_sglang.layout.slots import DegreeChain

# Widest vector load of the kernels that read these matrices.
ALIGNMENT = 64


class Refill(NamedTuple):
    """Bytes [start, stop) to copy from the same place in the weights of a peer.

    `source`: the peer's index in the block that the worker leaves.
    """

    start: int
    stop: int
    source: int


@dataclass(frozen=True)
class WeightPages:
    """Where the elastic matrices of a worker lie in its pages; the same on every worker.

    `page_size` and `matrices`, the size of each elastic matrix in order, count bytes. A matrix is
    `finest` equal contiguous shards in shard order, and at degree d a worker holds the finest
    shards of shard c_d(i) of each. Workers are indices in the group, as in DegreeChain.

    Tight: matrices follow each other without rounding to pages, so a page on the boundary of two
    shards stays with both of their workers. `padded` is the layout of the paper (arXiv 2509.19729):
    every finest shard starts on a page of its own and fills whole pages.
    """

    chain: DegreeChain
    page_size: int
    matrices: tuple[int, ...]
    padded: bool = False

    def __post_init__(self) -> None:
        assert self.page_size > 0 and self.page_size % ALIGNMENT == 0, self.page_size
        for size in self.matrices:
            assert size > 0 and size % self.chain.finest == 0, (size, self.chain.finest)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all matrices."""
        return sum(self.matrices)

    @property
    def total_pages(self) -> int:
        """Pages that hold all matrices: what a worker maps at degree 1."""
        return -(-self._bounds[-1] // self.page_size)

    @property
    def waste_bytes(self) -> int:
        """Bytes of the pages that hold no weights: padding, alignment and the last page's rest."""
        return self.total_pages * self.page_size - self.payload_bytes

    def offset(self, matrix: int, finest_shard: int) -> int:
        """Byte at which `finest_shard` of `matrix` starts."""
        assert 0 <= finest_shard < self.chain.finest, (finest_shard, self.chain.finest)
        return self._bounds[matrix] + finest_shard * self._stride(self.matrices[matrix])

    def shard_range(self, matrix: int, degree: int, worker: int) -> tuple[int, int]:
        """Bytes [start, stop) of the shard of `matrix` that `worker` holds at `degree`.

        With `padded` the padding between its finest shards lies inside the range.
        """
        return self._shard(matrix, degree, self.chain.shard(degree, worker))

    def kept_pages(self, degree: int, worker: int) -> np.ndarray:
        """Pages that hold a byte of the worker's shards at `degree`; int64, rising."""
        return np.flatnonzero(self._kept(degree, worker))

    def freed_pages(self, degree: int, worker: int) -> np.ndarray:
        """Pages that hold no byte of the worker's shards at `degree`; int64, rising."""
        return np.flatnonzero(~self._kept(degree, worker))

    def missing_ranges(self, before: int, after: int, worker: int) -> list[Refill]:
        """What `worker` must copy when a split takes it from degree `before` to `after`.

        Exactly the weights in the pages that come back, kept at `after` but freed at `before`. So
        whatever the sequence of degrees, a mapped page holds all of its weights, also those on a
        boundary page that belong to a shard of a peer: the next split relies on them. Every range
        is inside the shard of its source at `before`, whose pages never left the source.
        """
        assert after < before, (before, after)
        back = self._kept(after, worker) & ~self._kept(before, worker)
        return [
            Refill(first, last, self.chain.index(before, shard))
            for matrix in range(len(self.matrices))
            for shard in range(before)
            for start, stop in self._pieces(matrix, before, shard)
            for first, last in self._overlaps(start, stop, back)
        ]

    def _shard(self, matrix: int, degree: int, shard: int) -> tuple[int, int]:
        width = self.chain.finest // degree
        start = self.offset(matrix, shard * width)
        last = self.offset(matrix, shard * width + width - 1)
        return start, last + self.matrices[matrix] // self.chain.finest

    def _pieces(self, matrix: int, degree: int, shard: int) -> list[tuple[int, int]]:
        if not self.padded:
            return [self._shard(matrix, degree, shard)]
        width = self.chain.finest // degree
        return [
            self._shard(matrix, self.chain.finest, finest)
            for finest in range(shard * width, (shard + 1) * width)
        ]

    def _kept(self, degree: int, worker: int) -> np.ndarray:
        kept = np.zeros(self.total_pages, dtype=bool)
        for matrix in range(len(self.matrices)):
            start, stop = self.shard_range(matrix, degree, worker)
            kept[start // self.page_size : -(-stop // self.page_size)] = True
        return kept

    def _overlaps(self, start: int, stop: int, pages: np.ndarray) -> Iterator[tuple[int, int]]:
        """Parts of [start, stop) on the pages that the mask `pages` marks."""
        first, last = start // self.page_size, -(-stop // self.page_size)
        edges = np.flatnonzero(np.diff(pages[first:last], prepend=False, append=False)) + first
        for begin, end in edges.reshape(-1, 2).tolist():
            yield max(start, begin * self.page_size), min(stop, end * self.page_size)

    def _stride(self, size: int) -> int:
        shard = size // self.chain.finest
        return _round_up(shard, self.page_size) if self.padded else shard

    @cached_property
    def _bounds(self) -> tuple[int, ...]:
        """The start of every matrix, then the end of the last."""
        starts, end = [], 0
        for size in self.matrices:
            starts.append(_round_up(end, ALIGNMENT))
            end = starts[-1] + self.chain.finest * self._stride(size)
        return (*starts, end)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
