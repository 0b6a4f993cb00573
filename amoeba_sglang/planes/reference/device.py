"""One worker's part of the REFERENCE device."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from amoeba_sglang.planes.device.base import Blocks, Graph, T
from amoeba_sglang.planes.device.cuda import CudaDevice
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.kernels.launches import Launch
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.reference.calls import CALLS
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes
from amoeba_sglang.planes.reference.graphs import RecordedGraph
from amoeba_sglang.planes.reference.recorder import Recorder
from amoeba_sglang.planes.reference.streams import Event, Streams, Touch
from amoeba_sglang.planes.reference.watched import Watched
from amoeba_sglang.planes.transport.base import TransportGroup

GRANULARITY = 64 << 10
"""A GPU has pages of 2 MiB; of such the small models that a host can run would free none."""


INTERPRETER = threading.Lock()
"""Held while a kernel is launched: Triton's interpreter takes the place of the language that
kernels are written in while one runs, for all threads."""


class InterpretedMover(DeviceKVMover):
    """Beside steps whose kernels are interpreted, too; `streams` hear of each launch."""

    streams: Streams
    # The interpreter takes about a millisecond for a program, whatever that moves.
    block = 1 << 14

    def _launch(self, launch: Launch, table: torch.Tensor) -> None:
        bases = launch.table[: launch.members * launch.tensors].tolist()
        size = (max(launch.table[len(bases) : len(bases) + launch.slots]) + 1) * launch.row_bytes
        self.streams.launch("turn_cycle", [Touch(at, at + int(size), True) for at in bases])
        with INTERPRETER:
            super()._launch(launch, table)


class ReferenceDevice(CudaDevice):
    """A GPU's, with the driver, torch.cuda and kernels stood for; TRITON_INTERPRET=1 is set."""

    # What is launched is computed at once.
    lag = 0

    def __init__(self) -> None:
        self.streams = Streams()
        super().__init__(0, self.streams)
        self._device = torch.device("cpu")
        self.driver = ReferenceDriver(device=0, granularity=GRANULARITY, dirty=True)
        self.driver.before_unmap = functools.partial(self.streams.require_rest, what="an unmap")
        self.streams.recorder = Recorder(self.driver, self.streams)

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
        mover = InterpretedMover.over(
            blocks, group, finest=finest, device=self._device, settle=self.wait
        )
        mover.streams = self.streams
        return mover

    def free_bytes(self) -> None:
        """Its memory is the host's."""

    def warm_up(self, group: Any) -> None:
        """Nothing: its workers gather through the host."""

    def capture(self, launch: Callable[[], T], group: Any = None) -> tuple[Graph, T]:
        """On a GPU nothing of it would run now; here it does, since Python needs its results."""
        graph = RecordedGraph(self.driver)
        with graph.recording():
            made = launch()
        return graph, made

    def watch(self, group: TransportGroup) -> Watched:
        """The same group, through which peers hear that they may have what was launched."""
        return Watched(group, self.streams)

    def launched(self) -> Event:
        """One of its own: SGLang's would be of the host."""
        event = self.streams.Event()
        event.record()
        return event

    def figures(self) -> Mapping[str, float]:
        driver, streams = self.driver.counts, self.streams
        return {
            "kernels": streams.kernels.total(),
            "moves of KV": streams.kernels["turn_cycle"],
            "graphs": RecordedGraph.recorded,
            "replays": RecordedGraph.replays,
            "maps": driver["cuMemMap"],
            "unmaps": driver["cuMemUnmap"],
            **{f"wait {name}": count for name, count in streams.waited.items()},
            **{f"call {name}": count for name, count in CALLS.items()},
        }


@functools.cache
def device_of_process() -> ReferenceDevice:
    """The one that all of this process share."""
    return ReferenceDevice()
