"""The elastic weights of a worker: MLP matrices in pages that a merge frees and a split refills."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from amoeba_sglang.layout.weight_pages import WeightPages
from amoeba_sglang.memory.base import AddressRange, Memory
from amoeba_sglang.memory.runs import find_runs


class WeightStore:
    """All elastic matrices of a model, one after the other in pages of `memory`.

    Every worker makes its store at the same point of its page numbers, so page i of a store is
    page `first_page + i` of its worker and of every peer.
    """

    def __init__(self, memory: Memory, pages: WeightPages, worker: int) -> None:
        self.pages, self.degree = pages, 1
        self._memory, self._worker = memory, worker
        self._range = memory.reserve(pages.total_pages * pages.page_size)
        created = memory.create(pages.total_pages)
        self.first_page = created.start
        memory.map(self._range, 0, created)
        # Always the same few changes, and the split should not wait for the arithmetic.
        self._missing = cache(pages.missing_ranges)

    def tensor(self, matrix: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """One matrix as a contiguous view; at degree d only the worker's own shard is there."""
        assert torch.Size(shape).numel() * dtype.itemsize == self.pages.matrices[matrix], shape
        return self._range.tensor(self.pages.offset(matrix, 0), shape, dtype)

    def lent_pages(self, degree: int) -> list[int]:
        """Page ids, rising, that this worker does not need at `degree`."""
        return (self.pages.freed_pages(degree, self._worker) + self.first_page).tolist()

    def free(self, degree: int) -> None:
        """Unmap what `degree`, above the present one, does not need. Copies nothing."""
        assert degree > self.degree, (degree, self.degree)
        gone = self._only_in(self.degree, degree)
        for first, count in find_runs(gone):
            self._memory.unmap(self._range, first * self.pages.page_size, count)
        self.degree = degree

    def take_back(self, degree: int) -> None:
        """Map home what `degree`, below the present one, needs; the bytes are whatever they were.

        MemoryFault leaves the store unchanged.
        """
        assert degree < self.degree, (degree, self.degree)
        back = self._only_in(degree, self.degree)
        done = []
        try:
            for first, count in find_runs(back):
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
        self.degree = degree

    def copy_missing(self, before: int, peers: dict[int, AddressRange]) -> int:
        """Fill the pages taken back since degree `before` from the peers' own; bytes copied.

        `peers`: the opened pages of the other workers, by index in the group. Their shards of
        `before` must stay mapped and unwritten until all workers have copied.
        """
        copied = 0
        block = self._worker // before * before
        for start, stop, source in self._missing(before, self.degree, self._worker):
            there = self.first_page * self.pages.page_size + start
            size = stop - start
            peer = peers[block + source].tensor(there, (size,), torch.uint8)
            self._range.tensor(start, (size,), torch.uint8).copy_(peer)
            copied += size
        return copied

    def _only_in(self, low: int, high: int) -> list[int]:
        """Pages, rising, kept at degree `low` and not at the higher `high`."""
        kept = self.pages.kept_pages(low, self._worker)
        gone = np.setdiff1d(kept, self.pages.kept_pages(high, self._worker), assume_unique=True)
        return gone.tolist()
