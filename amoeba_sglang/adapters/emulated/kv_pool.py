"""A KV pool with all the slots of the emulated device, and no memory behind them."""

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool


class EmulatedKVPool(MHATokenToKVPool):
    """Every row of a layer is the same one, which nobody writes to or reads."""

    def _create_buffers_normal(self) -> None:
        shape, v_shape = self._kv_buffer_shapes()
        assert shape == v_shape and self.page_size == 1, (shape, v_shape)
        row = torch.zeros(1, *shape[1:], dtype=self.store_dtype)
        self.k_buffer = [row.expand(shape)] * self.layer_num
        self.v_buffer = [row.expand(shape)] * self.layer_num
