"""Asks the CUDA driver which GPUs of this machine reach each other's memory.

Not yet run on a GPU; tested through a stand-in for the driver.
"""

from types import ModuleType
from typing import Any

from amoeba_sglang.planes.memory.base import MemoryFault


def read_reach(module: ModuleType) -> list[list[bool]]:
    """[n][n] of the n GPUs that this process sees: whether GPU i may use the memory of GPU j.

    `module`: cuda.bindings.driver or something with its functions. MemoryFault without a driver, or
    if it refuses.
    """

    def call(name: str, *arguments: Any) -> Any:
        try:
            result, *values = getattr(module, name)(*arguments)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise MemoryFault(
                f"{name}: no usable NVIDIA driver (libcuda.so.1): {reason}"
            ) from error
        if result != module.CUresult.CUDA_SUCCESS:
            raise MemoryFault(f"{name} failed: {result.name}; check `nvidia-smi topo -p2p rw`")
        return values[0] if values else None

    call("cuInit", 0)
    devices = [call("cuDeviceGet", number) for number in range(call("cuDeviceGetCount"))]
    return [
        [one is other or bool(call("cuDeviceCanAccessPeer", one, other)) for other in devices]
        for one in devices
    ]
