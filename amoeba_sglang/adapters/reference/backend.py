"""`--amoeba-reference-device`: the CUDA plane on the REFERENCE device."""

from typing import Any

from amoeba_sglang.adapters.cuda.backend import GpuBackend
from amoeba_sglang.config import MAX_GPU_PAGE_SIZE_KIB, PageSizes


class ReferenceBackend(GpuBackend):
    """What a server on GPUs of a kind does, call for call, with nothing of their speed."""

    name = "reference"
    # A GPU has none below 2 MiB: of such the models that a host can run would free few.
    pages = PageSizes(least=64, usual=64, most=MAX_GPU_PAGE_SIZE_KIB)
    classes = {"paged_allocator": "amoeba_sglang.adapters.reference.allocator.ReferenceAllocator"}

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.sentence = (
            f"REFERENCE device {kind}: the calls of a GPU computed on the host, no figure of it "
            "says anything of a GPU"
        )

    @property
    def device(self) -> Any:
        # Imports the bindings of the driver.
        from amoeba_sglang.planes.reference.device import device_of_process

        return device_of_process()
