"""Asks the CUDA driver which GPUs of this machine reach each other's memory.

Not yet run on a GPU; tested through a stand-in for the driver.
"""

from types import ModuleType
from typing import Any

from amoeba_sglang.planes.memory.driver import call_driver


def read_reach(module: ModuleType) -> list[list[bool]]:
    """[n][n] of the n GPUs that this process sees: whether GPU i may use the memory of GPU j.

    `module`: cuda.bindings.driver or something with its functions. MemoryFault without a driver, or
    if it refuses.
    """

    def call(name: str, *arguments: Any) -> Any:
        return call_driver(module, name, *arguments, what=name)

    call("cuInit", 0)
    devices = [call("cuDeviceGet", number) for number in range(call("cuDeviceGetCount"))]
    return [
        [one is other or bool(call("cuDeviceCanAccessPeer", one, other)) for other in devices]
        for one in devices
    ]
