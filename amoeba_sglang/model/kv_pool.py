"""KV pool that can be viewed at any degree and grows into pages that other uses give up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.runtime_context import get_server_args

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.memory.base import AddressRange, MemoryHandle
from amoeba_sglang.memory.host import HostMemory


class ElasticKVPool(MHATokenToKVPool):
    """Upstream's pool with per-layer geometry and growth.

    K and V of every layer have a range of addresses each. At degree 1 a layer's K is [rows, H, D];
    at degree d the same bytes are [rows * d, H / d, D]. Grown by g pages a range, all of them have
    more rows; the first `base_rows` never move.
    """

    def _create_buffers_normal(self) -> None:
        shape, v_shape = self._kv_buffer_shapes()
        assert shape == v_shape and self.kv_cache_layout == "nhd" and self.page_size == 1
        assert self.device == "cpu", f"no memory backend of --device {self.device} is in use yet"
        self.base_rows, self._heads, self._head_dim = shape
        self.row_bytes = self._heads * self._head_dim * self.store_dtype.itemsize
        config: AmoebaConfig = get_server_args()._amoeba
        self.memory = HostMemory(config.page_size_kib << 10)
        page = self.memory.page_size
        self.base_pages = -(-self.base_rows * self.row_bytes // page)
        self.grown_pages = 0
        # At most all MLP weights, shared by K and V. Addresses cost nothing: take the widest dtype.
        most = self.base_pages * page + config.mlp_elements * torch.float32.itemsize // 2
        self._ranges = [self.memory.reserve(most) for _ in range(2 * self.layer_num)]
        # Range after range in page order, so that a peer sees each as one piece.
        for where in self._ranges:
            self.memory.map(where, 0, self.memory.create(self.base_pages))
        self.blocks = self._base_blocks([(where, 0) for where in self._ranges])
        self.k_buffer = [key for key, _ in self.blocks]
        self.v_buffer = [value for _, value in self.blocks]

    def _base_blocks(
        self, places: Sequence[tuple[AddressRange, int]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(K, V) per layer, [base_rows, H, D], of pools whose ranges begin at `places`."""
        shape = (self.base_rows, self._heads, self._head_dim)
        tensors = [where.tensor(offset, shape, self.store_dtype) for where, offset in places]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def peer_blocks(
        self, pages: AddressRange, handle: MemoryHandle
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A peer's base blocks by layer, in its opened `pages`; its pool must equal this one."""
        own = self.memory.export()
        assert (handle.pages, handle.page_size) == (own.pages, own.page_size), (
            f"the memory of two workers differs: {own} and {handle}"
        )
        size = self.base_pages * handle.page_size
        return self._base_blocks([(pages, n * size) for n in range(2 * self.layer_num)])

    def rows_with(self, grown_pages: int) -> int:
        """Rows of every range when it has `grown_pages` beyond its base."""
        if not grown_pages:
            return self.base_rows
        return (self.base_pages + grown_pages) * self.memory.page_size // self.row_bytes

    @property
    def rows(self) -> int:
        return self.rows_with(self.grown_pages)

    def grow(self, pages: Sequence[int]) -> None:
        """Map `pages`, an equal share behind every range; MemoryFault leaves the pool unchanged.

        The views of the layers follow with `view_layer`.
        """
        assert self.grown_pages == 0 and len(pages) % len(self._ranges) == 0, len(pages)
        each = len(pages) // len(self._ranges)
        offset = self.base_pages * self.memory.page_size
        done = 0
        try:
            for number, where in enumerate(self._ranges):
                share = pages[number * each : (number + 1) * each]
                self.memory.map(where, offset, share, populate=True)
                done += 1
        except BaseException:
            for where in self._ranges[: done + 1]:
                self.memory.unmap(where, offset, each)
            raise
        self.grown_pages = each

    def shrink(self) -> None:
        """Give up all grown pages; no view of a grown row may be used before `view_layer`."""
        offset = self.base_pages * self.memory.page_size
        for where in self._ranges:
            self.memory.unmap(where, offset, self.grown_pages)
        self.grown_pages = 0

    def view_layer(self, layer: int, degree: int) -> None:
        """Re-view one layer's memory at `degree`: d times the tokens, 1/d of the heads."""
        shape = (self.rows * degree, self._heads // degree, self._head_dim)
        key, value = self._ranges[2 * layer : 2 * layer + 2]
        self.k_buffer[layer] = key.tensor(0, shape, self.store_dtype)
        self.v_buffer[layer] = value.tensor(0, shape, self.store_dtype)
