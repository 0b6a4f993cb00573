"""`--amoeba-reference-device`: the CUDA plane on the REFERENCE device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amoeba_sglang.adapters.cuda.backend import GpuBackend
from amoeba_sglang.config import MAX_GPU_PAGE_SIZE_KIB, GpuChoice, PageSizes
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.reference.watched import Launched
from amoeba_sglang.planes.transport.base import Collectives, TransportGroup

if TYPE_CHECKING:
    from amoeba_sglang.adapters.worker.connections import Groups
    from amoeba_sglang.planes.reference.device import ReferenceDevice


class ReferenceBackend(GpuBackend):
    """What a server on GPUs does, call for call, with nothing of their speed."""

    name = "reference"
    # A GPU has none below 2 MiB: of such the models that a host can run would free few.
    pages = PageSizes(least=64, usual=64, most=MAX_GPU_PAGE_SIZE_KIB)
    classes = {"paged_allocator": "amoeba_sglang.adapters.reference.allocator.ReferenceAllocator"}

    def __init__(self, gpu: GpuChoice) -> None:
        super().__init__(gpu)
        self.sentence = (
            f"REFERENCE device {gpu.kind} by {gpu.attention}: the calls of a GPU computed on the "
            "host, no figure of it says anything of a GPU"
        )

    @property
    def device(self) -> ReferenceDevice:
        # Imports the bindings of the driver.
        from amoeba_sglang.planes.reference.device import device_of_process

        return device_of_process()

    def collectives(
        self, coordinators: Mapping[int, Any], transports: Mapping[int, TransportGroup]
    ) -> Mapping[int, Collectives]:
        launched = {degree: Launched(group) for degree, group in transports.items()}
        return super().collectives(coordinators, launched)

    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        """With SGLang's streams stood for as well, and peers who hear nothing too early."""
        device = self.device
        for width, (ranks, transport) in groups.moving.items():
            groups.moving[width] = ranks, device.watch(transport)
        streams = device.streams
        scheduler.schedule_stream = streams.current_stream()
        scheduler.forward_stream = streams.Stream()
        scheduler.forward_stream_ctx = streams.stream(scheduler.forward_stream)
        streams.enter(scheduler.schedule_stream)
        return super().make_plane(scheduler, rank, groups)
