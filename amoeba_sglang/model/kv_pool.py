"""KV pool that can be viewed at any degree and grows into pages that other uses give up."""

from __future__ import annotations

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.runtime_context import get_server_args

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.kv.ranges import KVRanges
from amoeba_sglang.memory.base import AddressRange, MemoryHandle
from amoeba_sglang.memory.host import HostMemory


class ElasticKVPool(MHATokenToKVPool):
    """Upstream's pool with per-layer geometry, over `ranges`.

    At degree 1 a layer's K is [rows, H, D]; at degree d the same bytes are [rows * d, H / d, D].
    `blocks`: (K, V) per layer of the base rows, [rows, H, D], whatever the degree.
    """

    def _create_buffers_normal(self) -> None:
        self._shape, v_shape = self._kv_buffer_shapes()
        assert self._shape == v_shape and self.kv_cache_layout == "nhd" and self.page_size == 1
        assert self.device == "cpu", f"no memory backend of --device {self.device} is in use yet"
        rows, heads, head_dim = self._shape
        config: AmoebaConfig = get_server_args()._amoeba
        self.memory = HostMemory(config.page_size_kib << 10)
        self.ranges = KVRanges(
            self.memory,
            self.layer_num,
            rows,
            heads * head_dim * self.store_dtype.itemsize,
            # At most all MLP weights of a layer, in the widest dtype, and less than a page of
            # padding for each finest shard of both matrices; half for K and half for V.
            config.mlp_elements * torch.float32.itemsize // 2
            + config.group_size * self.memory.page_size,
        )
        self.blocks = [
            self.ranges.layer(layer, self._shape, self.store_dtype)
            for layer in range(self.layer_num)
        ]
        self.k_buffer = [key for key, _ in self.blocks]
        self.v_buffer = [value for _, value in self.blocks]

    def peer_blocks(
        self, pages: AddressRange, handle: MemoryHandle
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`blocks` of a peer, in its opened `pages`; its pool must be as large as this one."""
        return self.ranges.peer_layers(pages, handle, self._shape, self.store_dtype)

    def view_layer(self, layer: int, degree: int) -> None:
        """Re-view one layer's memory at `degree`: d times the tokens, 1/d of the heads."""
        _, heads, head_dim = self._shape
        shape = (self.ranges.rows * degree, heads // degree, head_dim)
        views = self.ranges.layer(layer, shape, self.store_dtype)
        self.k_buffer[layer], self.v_buffer[layer] = views

    def copy_slots(self, source: torch.Tensor, target: torch.Tensor, staging_bytes: int) -> None:
        """Copy the KV of joint slots in all layers, which are at one degree; [n] int64 each, no
        slot twice. `staging_bytes` bounds the extra memory."""
        for buffer in (*self.k_buffer, *self.v_buffer):
            count = max(1, staging_bytes // buffer[0].nbytes)
            for taken, put in zip(source.split(count), target.split(count), strict=True):
                buffer[put] = buffer[taken]
