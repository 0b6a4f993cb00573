"""A worker's share of a host: pages of memory files, and copies by its cores."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from amoeba_sglang.planes.device.base import Blocks, Device, Graph, T
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.memory.mapping import return_freed_memory
from amoeba_sglang.planes.transport.base import TransportGroup


class CpuDevice(Device):
    """What is launched has run when the call returns."""

    def make_memory(self, page_size: int) -> HostMemory:
        return HostMemory(page_size)

    def make_mover(
        self,
        blocks: Sequence[Blocks],
        group: TransportGroup,
        *,
        finest: int,
        staging_bytes: int,
    ) -> PeerKVMover:
        pools = [UnitBuffers(block, finest) for block in blocks]
        peers = [None if index == group.rank else pool for index, pool in enumerate(pools)]
        return PeerKVMover(pools[group.rank], peers, group, staging_bytes)

    def helper(self) -> Executor:
        return ThreadPoolExecutor(1, thread_name_prefix="amoeba-copies")

    def ids(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers)

    def capture(self, launch: Callable[[], T], group: Any) -> tuple[Graph, T]:
        raise AssertionError("a CPU computes at once, there is nothing to record")

    def wait(self) -> None:
        """Nothing: a copy returns when it is done."""

    def synchronize(self) -> None:
        """Nothing: a forward returns when it has run."""

    def copy_seconds(self) -> float:
        """Not the time on the clock, most of which is computation on the same core."""
        return time.thread_time()

    def return_freed_memory(self) -> None:
        return_freed_memory()

    def crowding(self, workers: int) -> float:
        return max(1.0, workers / len(os.sched_getaffinity(0)))
