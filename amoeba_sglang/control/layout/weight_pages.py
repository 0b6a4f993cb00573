"""Page arithmetic: which pages of its elastic weights a worker keeps, frees and refills."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from amoeba_sglang.control.layout.slots import DegreeChain

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

    `page_size` and `layers`, the size of each elastic matrix of each layer in order, count bytes. A
    matrix is `finest` equal contiguous shards in shard order, and at degree d a worker holds the
    finest shards of shard c_d(i) of each. Workers are indices in the group, as in DegreeChain.

    Matrices follow each other without rounding to pages, so a page on the boundary of two shards
    stays with both of their workers.
    """

    chain: DegreeChain
    page_size: int
    layers: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        assert self.page_size > 0 and self.page_size % ALIGNMENT == 0, self.page_size
        for size in self.matrices:
            assert size > 0 and size % self.chain.finest == 0, (size, self.chain.finest)

    @cached_property
    def matrices(self) -> tuple[int, ...]:
        """Bytes of every matrix by number, through all layers."""
        return tuple(size for layer in self.layers for size in layer)

    def of_layer(self, layer: int) -> range:
        """The numbers of the matrices of a layer."""
        return range(self._firsts[layer], self._firsts[layer + 1])

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
        """Bytes of the pages that hold no weights: alignment and the last page's rest."""
        return self.total_pages * self.page_size - self.payload_bytes

    @property
    def padding_bytes(self) -> int:
        """What it would cost to start every finest shard on a page of its own, as the paper does
        (arXiv 2509.19729)."""
        shards = [size // self.chain.finest for size in self.matrices]
        return self.chain.finest * sum(-shard % self.page_size for shard in shards)

    def shard_range(self, matrix: int, degree: int, shard: int) -> tuple[int, int]:
        """Bytes [start, stop) of a shard of `matrix` at `degree`."""
        assert 0 <= shard < degree, (shard, degree)
        size = self.matrices[matrix] // degree
        start = self._bounds[matrix] + shard * size
        return start, start + size

    def kept_pages(self, degree: int, worker: int) -> np.ndarray:
        """Pages that hold a byte of the worker's shards at `degree`; int64, rising."""
        return np.flatnonzero(self.kept(self.all_at(degree), worker))

    def freed_pages(self, degree: int, worker: int) -> np.ndarray:
        """Pages that hold no byte of the worker's shards at `degree`; int64, rising."""
        return np.flatnonzero(~self.kept(self.all_at(degree), worker))

    def all_at(self, degree: int) -> tuple[int, ...]:
        """`degree` for each matrix."""
        return (degree,) * len(self.matrices)

    def kept(self, degrees: Sequence[int], worker: int) -> np.ndarray:
        """Whether each page holds a byte of the worker's shards, bool [total_pages].

        `degrees`: of each matrix, as they differ while layers are between two degrees.
        """
        assert len(degrees) == len(self.matrices), (len(degrees), len(self.matrices))
        edges = np.zeros(self.total_pages + 1, dtype=np.int64)
        for degree in set(degrees):
            firsts, ends = self._page_spans[degree, self.chain.shard(degree, worker)]
            chosen = np.array(degrees) == degree
            np.add.at(edges, firsts[chosen], 1)
            np.add.at(edges, ends[chosen], -1)
        return np.cumsum(edges)[:-1] > 0

    def missing_ranges(
        self, before: Sequence[int], after: Sequence[int], worker: int
    ) -> list[Refill]:
        """What `worker` must copy when the degrees of the matrices fall from `before` to `after`.

        Exactly the weights in the pages that come back, kept at `after` but freed at `before`. So
        whatever the sequence of degrees, a mapped page holds all of its weights, also those on a
        boundary page that belong to a shard of a peer: the next split relies on them. Every range
        is inside the shard of its source at the highest of the degrees, whose pages never left the
        source.
        """
        assert all(old >= new for old, new in zip(before, after, strict=True)), (before, after)
        back = self.kept(after, worker) & ~self.kept(before, worker)
        pages = np.flatnonzero(back)
        if not len(pages):
            return []
        high = max(before)
        first = bisect_right(self._bounds, int(pages[0]) * self.page_size) - 1
        end = bisect_left(self._bounds, (int(pages[-1]) + 1) * self.page_size)
        return [
            Refill(start, stop, self.chain.index(high, shard))
            for matrix in range(max(0, first), min(end, len(self.matrices)))
            for shard in range(high)
            for start, stop in self._overlaps(*self.shard_range(matrix, high, shard), back)
        ]

    def _overlaps(self, start: int, stop: int, pages: np.ndarray) -> Iterator[tuple[int, int]]:
        """Parts of [start, stop) on the pages that the mask `pages` marks."""
        first, last = start // self.page_size, -(-stop // self.page_size)
        edges = np.flatnonzero(np.diff(pages[first:last], prepend=False, append=False)) + first
        for begin, end in edges.reshape(-1, 2).tolist():
            yield max(start, begin * self.page_size), min(stop, end * self.page_size)

    @cached_property
    def _firsts(self) -> tuple[int, ...]:
        """The number of the first matrix of every layer, then one more."""
        return tuple(accumulate((len(layer) for layer in self.layers), initial=0))

    @cached_property
    def _page_spans(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """By (degree, shard): the first page of the shard of every matrix, and the one after the
        last."""
        spans = {}
        for degree in self.chain.degrees:
            for shard in range(degree):
                ranges = [self.shard_range(m, degree, shard) for m in range(len(self.matrices))]
                edges = np.array(ranges, dtype=np.int64).reshape(-1, 2)
                spans[degree, shard] = (
                    edges[:, 0] // self.page_size,
                    -(-edges[:, 1] // self.page_size),
                )
        return spans

    @cached_property
    def _bounds(self) -> tuple[int, ...]:
        """The start of every matrix, then the end of the last."""
        starts, end = [], 0
        for size in self.matrices:
            starts.append(end + -end % ALIGNMENT)
            end = starts[-1] + size
        return (*starts, end)
