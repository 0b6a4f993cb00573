"""Which GPUs reach each other, on a stand-in for the driver."""

from types import SimpleNamespace

import pytest
from cuda.bindings import driver as real

from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.peers import read_reach

FINE = real.CUresult.CUDA_SUCCESS


def machine(count, pairs, **replaced):
    """A driver of `count` GPUs of which those of `pairs` reach each other."""
    functions = {
        "cuInit": lambda flags: (FINE,),
        "cuDeviceGetCount": lambda: (FINE, count),
        # Their numbers differ from their places, as handles may.
        "cuDeviceGet": lambda number: (FINE, real.CUdevice(number + 7)),
        "cuDeviceCanAccessPeer": lambda one, other: (
            FINE,
            int(tuple(sorted((int(one) - 7, int(other) - 7))) in pairs),
        ),
    }
    return SimpleNamespace(CUresult=real.CUresult, **functions | replaced)


def test_every_gpu_reaches_itself_and_those_the_driver_says():
    assert read_reach(machine(3, {(0, 2)})) == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]
    assert read_reach(machine(0, set())) == []


def test_a_refusal_and_a_missing_driver_are_one_line():
    refused = machine(2, set(), cuInit=lambda flags: (real.CUresult.CUDA_ERROR_NO_DEVICE,))
    with pytest.raises(MemoryFault, match=r"^cuInit failed: CUDA_ERROR_NO_DEVICE; [^\n]*$"):
        read_reach(refused)

    def missing(flags):
        raise RuntimeError("not found:\n libcuda.so.1")

    with pytest.raises(MemoryFault, match=r"^cuInit: no usable NVIDIA driver [^\n]*not found: l"):
        read_reach(machine(2, set(), cuInit=missing))
