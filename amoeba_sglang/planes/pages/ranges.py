"""The K and V memory of every layer: a range of addresses whose halves grow by whole pages."""

import math
from collections.abc import Sequence

import torch

from amoeba_sglang.planes.memory.base import AddressRange, Memory, MemoryHandle


class KVRanges:
    """A range a layer, half of it for K and half for V, of `base_rows` rows of `row_bytes` each
    that never move.

    V lies `distance` bytes behind K: a whole number of rows, so that kernels may address it by row
    numbers counted from K. Grown by g pages a half, all of them have more rows. `most_grown` bounds
    the growth of a half in bytes; it costs addresses only.
    """

    def __init__(
        self, memory: Memory, layer_num: int, base_rows: int, row_bytes: int, most_grown: int
    ) -> None:
        self.memory, self.layer_num = memory, layer_num
        self.base_rows, self.row_bytes = base_rows, row_bytes
        self.base_pages = -(-base_rows * row_bytes // memory.page_size)
        self.grown_pages = 0
        step = math.lcm(memory.page_size, row_bytes)
        self.distance = -(-(self.base_pages * memory.page_size + most_grown) // step) * step
        ranges = [memory.reserve(2 * self.distance) for _ in range(layer_num)]
        # K and V of each layer in turn: where they begin.
        self._halves = [(where, start) for where in ranges for start in (0, self.distance)]
        # Half after half in page order, so that a peer sees each as one piece.
        self._first_page = memory.create(0).start
        size = self.base_pages * memory.page_size
        for where, start in self._halves:
            memory.map(where, start, memory.create(self.base_pages, as_extent=True))
            if not memory.zeroed:
                where.tensor(start, (size,), torch.uint8).zero_()

    def rows_with(self, grown_pages: int) -> int:
        """Rows of every range when it has `grown_pages` beyond its base."""
        if not grown_pages:
            return self.base_rows
        return (self.base_pages + grown_pages) * self.memory.page_size // self.row_bytes

    @property
    def rows(self) -> int:
        return self.rows_with(self.grown_pages)

    def layer(
        self, number: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of one layer as `shape`, from the start of their halves."""
        where, _ = self._halves[2 * number]
        return where.tensor(0, shape, dtype), where.tensor(self.distance, shape, dtype)

    def peer_layers(
        self,
        pages: AddressRange,
        handle: MemoryHandle,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`layer` for every layer of a peer, in its opened `pages`; base rows only. Its halves must
        equal these."""
        own = self.memory.export()
        assert (handle.pages, handle.page_size) == (own.pages, own.page_size), (
            f"the memory of two workers differs: {own} and {handle}"
        )
        size = self.base_pages * handle.page_size
        start = self._first_page * handle.page_size
        tensors = [
            pages.tensor(start + number * size, shape, dtype) for number in range(len(self._halves))
        ]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def grow(self, pages: Sequence[int]) -> None:
        """Map `pages`, an equal share behind every half; MemoryFault leaves all unchanged."""
        assert self.grown_pages == 0 and len(pages) % len(self._halves) == 0, len(pages)
        each = len(pages) // len(self._halves)
        offset = self.base_pages * self.memory.page_size
        touched = []
        try:
            for number, (where, start) in enumerate(self._halves):
                touched.append((where, start))
                share = pages[number * each : (number + 1) * each]
                self.memory.map(where, start + offset, share)
        except BaseException:
            for where, start in touched:
                self.memory.unmap(where, start + offset, each)
            raise
        self.grown_pages = each

    def shrink(self) -> None:
        """Give up all grown pages; no view of a grown row may be used any more."""
        offset = self.base_pages * self.memory.page_size
        for where, start in self._halves:
            self.memory.unmap(where, start + offset, self.grown_pages)
        self.grown_pages = 0
