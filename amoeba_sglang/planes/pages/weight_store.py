"""The elastic weights of a worker: MLP matrices in pages that a merge frees and a split refills."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch

from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.memory.base import AddressRange, Memory
from amoeba_sglang.planes.memory.runs import find_runs

# Of the copies of a split: as many as it has steps, or few if all move at once.
_REMEMBERED_STEPS = 256


class WeightStore:
    """All elastic matrices of a model, one after the other in pages of `memory`.

    A matrix has its pages once `shards` was asked for it, first to last, so that a caller can free
    what it moves here as it goes. `degrees`: of each matrix at present. Every worker makes its
    store at the same point of its page numbers, so page i of a store is page `first_page + i` of
    its worker and of every peer.
    """

    def __init__(self, memory: Memory, pages: WeightPages, worker: int) -> None:
        self.pages, self.degrees = pages, pages.all_at(1)
        self._memory, self._worker = memory, worker
        self._size = pages.total_pages * pages.page_size
        self._range = memory.reserve(self._size)
        self._there = memory.create(0)
        self.first_page = self._there.start
        self._bytes = self._range.tensor(0, (self._size,), torch.uint8)
        # Always the same few changes, and the split should not wait for the arithmetic.
        self._missing = lru_cache(_REMEMBERED_STEPS)(pages.missing_ranges)

    def shards(self, matrix: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The finest shards of one matrix, `shape` each, as a view [finest, *shape]; at degree d
        only the worker's own shard is there."""
        start, stop = self.pages.shard_range(matrix, 1, 0)
        whole = (self.pages.chain.finest, *shape)
        self._create_until(-(-stop // self.pages.page_size))
        assert torch.Size(whole).numel() * dtype.itemsize == stop - start, shape
        return self._range.tensor(start, whole, dtype)

    def _create_until(self, count: int) -> None:
        """Let the first `count` pages be there."""
        more = count - len(self._there)
        if more > 0:
            created = self._memory.create(more)
            assert created.start == self._there.stop, "somebody else took pages meanwhile"
            start = len(self._there) * self.pages.page_size
            self._memory.map(self._range, start, created)
            if not self._memory.zeroed:
                # The end of the last, which no matrix fills, becomes KV as well.
                self._bytes[start : start + more * self.pages.page_size].zero_()
            self._there = range(self.first_page, created.stop)

    def lent_pages(self, degree: int) -> list[int]:
        """Page ids, rising, that this worker does not need at `degree`."""
        return (self.pages.freed_pages(degree, self._worker) + self.first_page).tolist()

    def weights_of(self, peer: AddressRange) -> torch.Tensor:
        """uint8, all pages of the store of another worker, whose memory is open here."""
        return peer.tensor(self.first_page * self.pages.page_size, (self._size,), torch.uint8)

    def free(self, matrices: Iterable[int], degree: int) -> None:
        """Unmap what no matrix needs once `matrices` are at `degree`, above theirs. No copies."""
        after = self._with(matrices, degree)
        assert self._changes(after) > 0, (self.degrees, after)
        for first, count in self._runs_only_at(self.degrees, after):
            self._memory.unmap(self._range, first * self.pages.page_size, count)
        self.degrees = after

    def take_back(
        self, matrices: Iterable[int], degree: int, peers: dict[int, torch.Tensor]
    ) -> int:
        """Map home what `matrices` need at `degree`, below theirs, and fill it; bytes copied.

        `peers`: the weights of the other workers, by index in the group. What they hold at the
        degree before must stay mapped and unwritten until all workers have copied. MemoryFault
        leaves the store unchanged.
        """
        before, after = self.degrees, self._with(matrices, degree)
        assert self._changes(after) < 0, (before, after)
        done = []
        try:
            for first, count in self._runs_only_at(after, before):
                start = self.first_page + first
                done.append((first, count))
                self._memory.map(
                    self._range,
                    first * self.pages.page_size,
                    range(start, start + count),
                    populate=True,
                )
        except BaseException:
            for first, count in done:
                self._memory.unmap(self._range, first * self.pages.page_size, count)
            raise
        self.degrees = after
        return self.refill(before, peers)

    def refill(self, before: tuple[int, ...], peers: dict[int, torch.Tensor]) -> int:
        """Copy what is mapped now and was missing at the degrees `before`, above; bytes copied."""
        copied, width = 0, max(before)
        block = self._worker // width * width
        for start, stop, source in self._missing(before, self.degrees, self._worker):
            self._bytes[start:stop].copy_(peers[block + source][start:stop])
            copied += stop - start
        return copied

    def _with(self, matrices: Iterable[int], degree: int) -> tuple[int, ...]:
        degrees = list(self.degrees)
        for matrix in matrices:
            degrees[matrix] = degree
        return tuple(degrees)

    def _changes(self, after: tuple[int, ...]) -> int:
        """1 if degrees rise, -1 if they fall, 0 if they do neither or both."""
        rises = {(new > old) - (new < old) for old, new in zip(self.degrees, after, strict=True)}
        return sum(rises)

    def _runs_only_at(
        self, these: tuple[int, ...], those: tuple[int, ...]
    ) -> Iterable[tuple[int, int]]:
        """Runs (first, count) of pages needed at the degrees `these` and not at `those`."""
        only = self.pages.kept(these, self._worker) & ~self.pages.kept(those, self._worker)
        return list(find_runs(np.flatnonzero(only).tolist()))
