"""Sums over the workers that share a GPU, through memory that all of them map."""

import torch

from amoeba_sglang.planes.memory.base import MemoryHandle
from bench.gpu_check.device import Device
from bench.gpu_check.workers import Group, open_peers


class StagedSums:
    """A worker's own place for its part, and the others' places as it has them mapped.

    NCCL refuses several workers on one GPU. Two places take turns: who writes into one has met the
    others since they read what was in it before. `most`: elements of a sum, float32.
    """

    def __init__(self, group: Group, device: Device, most: int, page_size: int) -> None:
        self._group, self._device, self._most, self._turn = group, device, most, 0
        self._memory = device.memory(page_size)
        pages = -(-2 * most * torch.float32.itemsize // page_size)
        self._own = self._memory.reserve(pages * page_size)
        self._memory.map(self._own, 0, self._memory.create(pages, as_extent=True))

    def export(self) -> MemoryHandle:
        return self._memory.export()

    def meet(self, handles: list[MemoryHandle]) -> None:
        self._opened = open_peers(self._group, self._memory, handles)
        self._places = [
            self._opened.get(rank, self._own).tensor(0, (2, self._most), torch.float32)
            for rank in range(self._group.size)
        ]

    def add(self, part: torch.Tensor, ranks: range) -> torch.Tensor:
        """The sum over `ranks`, in their order; all workers call it together."""
        turn, size = self._turn, part.numel()
        self._turn = 1 - turn
        self._places[self._group.rank][turn, :size].copy_(part.flatten())
        # Has what was read from the other place been read, too, when the others go on.
        self._device.synchronize()
        self._group.barrier()
        total = self._places[ranks[0]][turn, :size].clone()
        for rank in ranks[1:]:
            total += self._places[rank][turn, :size]
        return total.view_as(part)

    def close(self) -> None:
        for opened in self._opened.values():
            opened.close()
        self._own.close()
        self._memory.close()
