"""A worker's GPU. Not yet run on one; tested through stand-ins for torch.cuda and the driver."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from amoeba_sglang.planes.device.base import Blocks, Device, Graph, T
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.transport.base import TransportGroup


class CudaDevice(Device):
    """GPU `number` as CUDA numbers it in this process, which has initialised CUDA on it.

    `cuda` stands for torch.cuda.
    """

    lag = 1

    def __init__(self, number: int, cuda: Any = torch.cuda) -> None:
        super().__init__()
        self._number, self._cuda = number, cuda
        self._device = torch.device("cuda", number)
        self._graph_pool: Any = None

    def make_memory(self, page_size: int) -> CudaMemory:
        return CudaMemory(page_size, self._number)

    def make_mover(
        self,
        blocks: Sequence[Blocks],
        group: TransportGroup,
        *,
        finest: int,
        staging_bytes: int,
    ) -> DeviceKVMover:
        """Units change places in registers: nothing is put aside."""
        return DeviceKVMover.over(
            blocks,
            group,
            finest=finest,
            device=self._device,
            settle=self.wait,
        )

    def helper(self) -> Executor:
        """Its thread has a stream of its own, beside the one of the steps."""
        return ThreadPoolExecutor(
            1, thread_name_prefix="amoeba-copies", initializer=self._take_stream
        )

    def _take_stream(self) -> None:
        # Both are a thread's own, and a new one has neither.
        self._cuda.set_device(self._device)
        self._cuda.set_stream(self._cuda.Stream(self._device))

    def ids(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._device)

    def warm_up(self, group: Any) -> None:
        # A communicator is made by its first use, a second of waiting and some hundred MiB.
        numbers = torch.zeros(16, device=self._device)
        group.all_reduce(numbers)
        group.all_gather(numbers, 0)
        self.synchronize()

    def capture(self, launch: Callable[[], T], group: Any) -> tuple[Graph, T]:
        graph = self._cuda.CUDAGraph()
        with (
            group.graph_capture() as context,
            self._cuda.graph(graph, pool=self._graph_pool, stream=context.stream),
        ):
            made = launch()
        # One is replayed at a time, so all may use the same memory for what they make.
        self._graph_pool = self._graph_pool or graph.pool()
        return graph, made

    def wait(self) -> None:
        self._cuda.current_stream(self._device).synchronize()

    def synchronize(self) -> None:
        self._cuda.synchronize(self._device)

    def copy_seconds(self) -> float:
        """Of the clock, not of events: most of a move is mapping pages, which is the host's, and
        each waits for its copies."""
        return time.perf_counter()

    def free_bytes(self) -> int | None:
        return self._cuda.mem_get_info(self._device)[0]

    def return_freed_memory(self) -> None:
        self._cuda.empty_cache()

    def crowding(self, workers: int) -> float:
        """Each has a GPU of its own."""
        return 1.0
