"""Ways to bring KV and weights to another degree: the paper's "Basic", and those of rivals.

Each is built as its paper describes it, of the same copies between the same processes in the same
memory, so that what differs is the method. No device is here: what is called a copy through the
host costs two copies, not two trips over PCIe. All leave the worker's own state as it was.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.kv.units import RunMoves, UnitBuffers
from amoeba_sglang.planes.memory.host import HostMemory
from bench.page_worker import PAGE, PageWorker


def move_to_second_pool(
    blocks: Sequence[Sequence[torch.Tensor]],
    peers: Sequence[UnitBuffers | None],
    finest: int,
    moves: tuple[UnitMove, ...],
    live: list[np.ndarray],
) -> None:
    """Basic (arXiv 2509.19729): allocate a second pool, copy all live tokens into it in the new
    layout, free the first. Frees the new one instead, which costs the same.

    `blocks`: (K, V) by layer, [slots, ..]. `peers`: pools by worker, None for this one.
    """
    pool = [tuple(torch.empty_like(part) for part in block) for block in blocks]
    rank = peers.index(None)
    mine = torch.from_numpy(live[rank])
    for block, new in zip(blocks, pool, strict=True):
        for old, there in zip(block, new, strict=True):
            there[mine] = old[mine]
    units = UnitBuffers(pool, finest)
    runs = RunMoves(moves, live, finest, units.rows)
    for chunk in runs.index_chunks(max(1, runs.super_slots)):
        for index in (index for index in chunk if index.target == rank):
            for layer in range(len(blocks)):
                sources = peers[index.source].runs(layer, runs.width)
                for target, there in zip(units.runs(layer, runs.width), sources, strict=True):
                    target[index.target_runs] = there[index.source_runs]


class HostSwap:
    """Seesaw (arXiv 2503.06433): all KV goes out to shared host memory, and comes back in the new
    layout. The workers make it together; `tokens`: live ones of every worker."""

    def __init__(self, worker: PageWorker, tokens: int) -> None:
        self._worker = worker
        self._shape = (worker.shape.layers, 2, tokens, *worker.kv_shape[1:])
        size = torch.Size(self._shape).numel() * worker.shape.dtype.itemsize
        self._memory = HostMemory(PAGE)
        own = self._memory.reserve(size)
        self._memory.map(own, 0, self._memory.create(own.size // PAGE), populate=True)
        handles: list = [None] * worker.n
        dist.all_gather_object(handles, self._memory.export())
        ranges = [
            own if home == worker.rank else self._memory.open_peer(handle, writable=True)
            for home, handle in enumerate(handles)
        ]
        self._hosts = [self._units(where.tensor(0, self._shape, worker.shape.dtype))
                       for where in ranges]  # fmt: skip

    def move(self, before: int, after: int, live: list[np.ndarray]) -> None:
        slots = [torch.from_numpy(each) for each in live]
        pools = [[self._units(part) for part in block] for block in self._worker.blocks]
        for home, unit, place in self._held(before):
            for layer, block in enumerate(pools):
                for which, pool in enumerate(block):
                    self._hosts[home][layer, which, :, unit] = pool[slots[home], place]
        self._worker.group.barrier()
        for home, unit, place in self._held(after):
            for layer, block in enumerate(pools):
                for which, pool in enumerate(block):
                    pool[slots[home], place] = self._hosts[home][layer, which, :, unit]
        self._worker.group.barrier()

    def _held(self, degree: int) -> list[tuple[int, int, int]]:
        """(home, unit, place) of what this worker holds at `degree`."""
        chain, rank = self._worker.chain, self._worker.rank
        places = {
            (home, unit): chain.place(degree, home, unit)
            for home in range(self._worker.n)
            for unit in range(chain.finest)
        }
        return [(*key, place) for key, (holder, place) in places.items() if holder == rank]

    def _units(self, tensor: torch.Tensor) -> torch.Tensor:
        """[.., H, D] as [.., finest, H / finest * D]."""
        return tensor.view(*tensor.shape[:-2], self._worker.chain.finest, -1)


def swap_weights(worker: PageWorker, before: int, after: int) -> None:
    """Partial Swap (as in arXiv 2509.19729): matrix by matrix, allocate the new shard, copy what is
    here and what the peers have, free the old one. Frees the new one instead."""
    n, chain = worker.n, worker.chain
    shards = range(n) if after == 1 else [chain.shard(after, worker.rank)]
    for matrix, size in enumerate(worker.store.pages.matrices):
        parts = torch.empty(size // after, dtype=torch.uint8).chunk(len(shards))
        for part, shard in zip(parts, shards, strict=True):
            holder = worker.rank if before == 1 else chain.index(n, shard)
            part.copy_(worker.weight_shard(holder, matrix, shard))
