"""The K and V memory of every layer: a range of addresses each that grows by whole pages."""

from collections.abc import Sequence

import torch

from amoeba_sglang.planes.memory.base import AddressRange, Memory, MemoryHandle


class KVRanges:
    """Two ranges a layer, K and V, of `base_rows` rows of `row_bytes` each that never move.

    Grown by g pages a range, all of them have more rows. `most_grown` bounds the growth of a range
    in bytes; it costs addresses only.
    """

    def __init__(
        self, memory: Memory, layer_num: int, base_rows: int, row_bytes: int, most_grown: int
    ) -> None:
        self.memory, self.layer_num = memory, layer_num
        self.base_rows, self.row_bytes = base_rows, row_bytes
        self.base_pages = -(-base_rows * row_bytes // memory.page_size)
        self.grown_pages = 0
        size = self.base_pages * memory.page_size + most_grown
        self._ranges = [memory.reserve(size) for _ in range(2 * layer_num)]
        # Range after range in page order, so that a peer sees each as one piece.
        self._first_page = memory.create(0).start
        for where in self._ranges:
            memory.map(where, 0, memory.create(self.base_pages))

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
        """K and V of one layer as `shape`, from the start of their ranges."""
        key, value = self._ranges[2 * number : 2 * number + 2]
        return key.tensor(0, shape, dtype), value.tensor(0, shape, dtype)

    def peer_layers(
        self,
        pages: AddressRange,
        handle: MemoryHandle,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`layer` for every layer of a peer, in its opened `pages`; base rows only. Its ranges must
        equal these."""
        own = self.memory.export()
        assert (handle.pages, handle.page_size) == (own.pages, own.page_size), (
            f"the memory of two workers differs: {own} and {handle}"
        )
        size = self.base_pages * handle.page_size
        start = self._first_page * handle.page_size
        tensors = [
            pages.tensor(start + number * size, shape, dtype) for number in range(len(self._ranges))
        ]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def grow(self, pages: Sequence[int]) -> None:
        """Map `pages`, an equal share behind every range; MemoryFault leaves all unchanged."""
        assert self.grown_pages == 0 and len(pages) % len(self._ranges) == 0, len(pages)
        each = len(pages) // len(self._ranges)
        offset = self.base_pages * self.memory.page_size
        touched = []
        try:
            for number, where in enumerate(self._ranges):
                touched.append(where)
                self.memory.map(where, offset, pages[number * each : (number + 1) * each])
        except BaseException:
            for where in touched:
                self.memory.unmap(where, offset, each)
            raise
        self.grown_pages = each

    def shrink(self) -> None:
        """Give up all grown pages; no view of a grown row may be used any more."""
        offset = self.base_pages * self.memory.page_size
        for where in self._ranges:
            self.memory.unmap(where, offset, self.grown_pages)
        self.grown_pages = 0
