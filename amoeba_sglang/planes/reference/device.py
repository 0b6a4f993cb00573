"""One worker's part of the REFERENCE device."""

import functools
import threading
from collections.abc import Sequence

import torch

from amoeba_sglang.planes.device.base import Blocks
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.kernels.launches import Launch
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes
from amoeba_sglang.planes.transport.base import TransportGroup

GRANULARITY = 64 << 10
"""A GPU has pages of 2 MiB; of such the small models that a host can run would free none."""


INTERPRETER = threading.Lock()
"""Held by whoever launches a kernel: Triton's interpreter takes the place of the language that
kernels are written in while one runs, for all threads."""


class InterpretedMover(DeviceKVMover):
    """Beside steps whose kernels are interpreted, too."""

    def _launch(self, launch: Launch, table: torch.Tensor) -> None:
        with INTERPRETER:
            super()._launch(launch, table)


class ReferenceDevice(CpuDevice):
    """Memory through the driver's calls, KV by the GPU's kernel in Triton's interpreter, which
    TRITON_INTERPRET=1 turns on; the rest as on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = ReferenceDriver(device=0, granularity=GRANULARITY, dirty=True)

    def make_memory(self, page_size: int) -> CudaMemory:
        return CudaMemory(page_size, 0, self.driver, view_bytes)

    def make_mover(
        self,
        blocks: Sequence[Blocks],
        group: TransportGroup,
        *,
        finest: int,
        staging_bytes: int,
    ) -> DeviceKVMover:
        return InterpretedMover.over(
            blocks,
            group,
            finest=finest,
            device=torch.device("cpu"),
            settle=self.synchronize,
        )


@functools.cache
def device_of_process() -> ReferenceDevice:
    """The one that all of this process share."""
    return ReferenceDevice()
