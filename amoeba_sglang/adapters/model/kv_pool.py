"""KV pool that can be viewed at any degree and grows into pages that other uses give up."""

import torch
from sglang.srt.mem_cache import memory_pool
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.runtime_context import get_server_args

from amoeba_sglang.adapters.choice import backend_of
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.planes.memory.base import AddressRange, MemoryHandle
from amoeba_sglang.planes.pages.ranges import KVRanges


class ElasticKVPool(MHATokenToKVPool):
    """Upstream's pool with per-layer geometry, over `ranges`.

    A slot is a KV page of P = `page_size` tokens, heads outermost, so that a head shard of it is
    one contiguous run of K and one of V. K and V keep ranges of their own at every P, since P = 1
    must stay upstream's layout and a pool that grows behind two ranges wastes no more than behind
    one of twice the size; a run of P tokens is long enough to copy. At degree 1 a layer's K is
    [slots, H, P, D]; at degree d the same bytes are [slots * d, H / d, P, D]. `blocks`: (K, V) per
    layer of the base slots, [slots, H, P, D], whatever the degree. For an attention that takes
    "nhd" (see Backend) P is 1 and left out of all shapes.
    """

    def _create_buffers_normal(self) -> None:
        assert self.kv_cache_layout == "nhd" and self.head_dim == self.v_head_dim
        assert self.size % self.page_size == 0, (self.size, self.page_size)
        # Upstream's name of these shapes; its switch `use_hnd` also has them stored by its code.
        self.kv_cache_layout = "hnd"
        slots = self.size // self.page_size + 1
        self._shape = (slots, self.head_num, self.page_size, self.head_dim)
        config: AmoebaConfig = get_server_args()._amoeba
        backend = backend_of(self.device, config)
        assert backend.device is not None, "a plane that computes nothing has no pool"
        layout = backend.kv_layout(self.page_size)
        self.use_hnd = layout == "hnd"
        if layout == "nhd":
            assert self.page_size == 1, self.page_size
            self.kv_cache_layout, self._shape = "nhd", (slots, self.head_num, self.head_dim)
        self.memory = backend.device.memory(config.page_size_kib << 10)
        self.ranges = KVRanges(
            self.memory,
            self.layer_num,
            slots,
            self.head_num * self.page_size * self.head_dim * self.store_dtype.itemsize,
            # At most half of a layer's MLP weights, in the widest dtype, and the rest of a page.
            config.mlp_elements * torch.float32.itemsize // 2 + self.memory.page_size,
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

    def view_layer(self, layer: int, degree: int, rows: int | None = None) -> None:
        """Re-view one layer's memory at `degree`: d times the slots, 1/d of the heads. `rows`: as
        many as there will be, of which only those that are there may be touched."""
        _, heads, *rest = self._shape
        shape = ((rows or self.ranges.rows) * degree, heads // degree, *rest)
        views = self.ranges.layer(layer, shape, self.store_dtype)
        self.k_buffer[layer], self.v_buffer[layer] = views

    def _store_kv_layer(
        self, layer_idx: int, loc: torch.Tensor, cache_k: torch.Tensor, cache_v: torch.Tensor
    ) -> None:
        # Upstream has one width and one number of slots for all layers, and its kernel ends the
        # process at a slot beyond that.
        keys, values = self.k_buffer[layer_idx], self.v_buffer[layer_idx]
        memory_pool._set_kv_buffer_impl(
            cache_k, cache_v, keys, values, loc,
            row_dim=keys[0].numel(),
            store_dtype=self.store_dtype,
            device_module=self.device_module,
            size_limit=len(keys),
            alt_stream=self.alt_stream,
        )  # fmt: skip

    def copy_slots(self, source: torch.Tensor, target: torch.Tensor, staging_bytes: int) -> None:
        """Copy the KV of joint slots in all layers, which are at one degree; [n] int64 each, no
        slot twice. `staging_bytes` bounds the extra memory."""
        for buffer in (*self.k_buffer, *self.v_buffer):
            count = max(1, staging_bytes // buffer[0].nbytes)
            for taken, put in zip(source.split(count), target.split(count), strict=True):
                buffer[put] = buffer[taken]
