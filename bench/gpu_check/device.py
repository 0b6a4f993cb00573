"""The GPU that a check runs on."""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from amoeba_sglang.planes.memory.base import Memory


class Device(Protocol):
    """What a check needs of a device; can be pickled, for processes that share it."""

    figures: bool
    """Whether what is timed here means anything."""

    def open(self) -> None:
        """Let this process use it."""

    def memory(self, page_size: int) -> Memory:
        """Pages of `page_size` bytes there."""

    def synchronize(self) -> None:
        """Wait until all that was launched has run."""

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What launches the same again from a recording."""

    def describe(self) -> dict[str, Any]:
        """What it is, and the limits of this process that matter."""


@dataclass(frozen=True)
class Gpu:
    """GPU `number`, as CUDA numbers it in this process."""

    number: int = 0
    figures: bool = True

    def open(self) -> None:
        import torch

        torch.cuda.init()
        torch.cuda.set_device(self.number)

    def memory(self, page_size: int) -> Memory:
        from amoeba_sglang.planes.memory.cuda import CudaMemory

        return CudaMemory(page_size, self.number)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize(self.number)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        import torch

        # Libraries set themselves up in a run that nobody records, on a stream beside the usual.
        stream = torch.cuda.Stream(self.number)
        with torch.cuda.stream(stream):
            launch()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            launch()
        return graph.replay

    def describe(self) -> dict[str, Any]:
        import torch

        free, total = torch.cuda.mem_get_info(self.number)
        return {
            "gpu": torch.cuda.get_device_name(self.number),
            "capability": "sm_{}{}".format(*torch.cuda.get_device_capability(self.number)),
            "gpus": torch.cuda.device_count(),
            "free_gib": round(free / 2**30, 1),
            "total_gib": round(total / 2**30, 1),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
