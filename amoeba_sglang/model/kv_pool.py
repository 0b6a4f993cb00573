"""KV pool whose layers can be viewed at any degree, in memory that peers can map."""

from __future__ import annotations

import math

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.runtime_context import get_server_args

from amoeba_sglang.memory.base import AddressRange, MemoryHandle
from amoeba_sglang.memory.host import HostMemory


class ElasticKVPool(MHATokenToKVPool):
    """Upstream's pool with per-layer geometry.

    At degree 1 a layer's K is [rows, H, D]; at degree d the same bytes are [rows * d, H / d, D].
    K and V of a layer are the halves of one contiguous [2, rows, H, D] block.
    On the CPU the blocks lie in one memfd, layer after layer, so that a peer maps them all.
    """

    memory: HostMemory | None = None

    def _create_buffers_normal(self) -> None:
        k_shape, v_shape = self._kv_buffer_shapes()
        assert k_shape == v_shape and self.kv_cache_layout == "nhd" and self.page_size == 1
        block = (2, *k_shape)
        if self.device == "cpu":
            self.blocks = self._create_host_blocks(block)
        else:
            self.blocks = [
                torch.zeros(block, dtype=self.store_dtype, device=self.device)
                for _ in range(self.layer_num)
            ]
        self.k_buffer = [b[0] for b in self.blocks]
        self.v_buffer = [b[1] for b in self.blocks]

    def _create_host_blocks(self, block: tuple[int, ...]) -> list[torch.Tensor]:
        self.memory = HostMemory(get_server_args()._amoeba.page_size_kib << 10)
        self.range = self.memory.reserve(self.layer_num * self._block_bytes(block))
        self.memory.map(self.range, 0, self.memory.create(self.range.size // self.memory.page_size))
        return self._blocks_in(self.range, block)

    def _block_bytes(self, block: tuple[int, ...]) -> int:
        return math.prod(block) * self.store_dtype.itemsize

    def _blocks_in(self, where: AddressRange, block: tuple[int, ...]) -> list[torch.Tensor]:
        size = self._block_bytes(block)
        return [
            where.tensor(layer * size, block, self.store_dtype) for layer in range(self.layer_num)
        ]

    def peer_blocks(self, handle: MemoryHandle) -> list[torch.Tensor]:
        """A peer's blocks [2, rows, H, D] by layer; its pool must be as large as this one."""
        assert self.memory is not None
        own = self.memory.export()
        assert (handle.pages, handle.page_size) == (own.pages, own.page_size), (
            f"the KV pools of two workers differ: {own} and {handle}"
        )
        return self._blocks_in(self.memory.open_peer(handle), tuple(self.blocks[0].shape))

    def view_layer(self, layer: int, degree: int) -> None:
        """Re-view one layer's memory at `degree`: d times the tokens, 1/d of the heads."""
        rows, heads, dim = self.blocks[layer].shape[1:]
        view = self.blocks[layer].view(2, rows * degree, heads // degree, dim)
        self.k_buffer[layer], self.v_buffer[layer] = view[0], view[1]
