"""The scheduler's table of rows, on the host whatever the device."""

from typing import Any

import torch
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

from amoeba_sglang.adapters.model.device_copy import copy_to


class HostRows(ReqToTokenPool):
    """Upstream's `req_to_token` for all who decide: scheduler, prefix cache, allocator and peers.

    They read and write [rows, positions] int32 locations without waiting for the device. `device`
    of the ReqToTokenPool `model`, which only attention reads, gets each change in the order of the
    stream that is current at `write`.
    """

    def __init__(self, model: ReqToTokenPool) -> None:
        super().__init__(model.size, model.max_context_len, "cpu", enable_memory_saver=False)
        self._model = model.req_to_token

    def write(self, indices: Any, values: torch.Tensor) -> None:
        """`indices`: a row and a slice of its positions, or int64 vectors of rows and positions;
        `values`: as many locations. All on the host."""
        super().write(indices, values)
        row, positions = indices
        if isinstance(positions, slice):
            positions = torch.arange(positions.start, positions.start + len(values))
            row = torch.full_like(positions, row)
        packed = torch.stack([row, positions, values.to(torch.int64)])
        rows, positions, locations = copy_to(self._model.device, packed)
        self._model[rows, positions] = locations.to(self._model.dtype)


def rows_for_scheduler(model: ReqToTokenPool) -> ReqToTokenPool:
    """The table that the scheduler works on; a CPU needs no second one."""
    return model if torch.device(model.device).type == "cpu" else HostRows(model)
