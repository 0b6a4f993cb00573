"""What a plane gets of its device: memory, movers, indices, order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.device.cuda import CudaDevice
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.pages.ranges import KVRanges
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.reference.device import ReferenceDevice, device_of_process


def blocks(workers=2, layers=2):
    """K and V [rows, units, bytes] of every layer of each worker."""
    return [
        [(torch.zeros(5, 4, 16), torch.zeros(5, 4, 16)) for _ in range(layers)]
        for _ in range(workers)
    ]


def group(rank, size=2):
    return SimpleNamespace(rank=rank, size=size)


def test_a_host_s_workers_take_turns_on_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    device = CpuDevice()
    assert (device.crowding(1), device.crowding(8)) == (1.0, 4.0)
    assert device.ids(np.array([3, 1])).tolist() == [3, 1]
    device.synchronize()
    device.return_freed_memory()
    assert device.make_memory(8192).page_size == 8192
    before = device.copy_seconds()
    sum(range(100_000))
    assert device.copy_seconds() > before


def test_a_host_moves_kv_with_what_it_may_put_aside():
    mover = CpuDevice().make_mover(blocks(), group(1), finest=4, staging_bytes=1 << 12)
    assert isinstance(mover, PeerKVMover)
    assert (mover._worker, mover._staging_bytes) == (1, 1 << 12)


def test_the_reference_device_moves_kv_by_the_kernel_of_a_gpu():
    mover = ReferenceDevice().make_mover(blocks(), group(0), finest=4, staging_bytes=1)
    assert isinstance(mover, DeviceKVMover) and mover._worker == 0
    assert mover._shape.unit_bytes == (64, 64)


def test_the_reference_device_maps_pages_through_the_driver():
    device = ReferenceDevice()
    memory = device.make_memory(64 << 10)
    where = memory.reserve(3 * memory.page_size)
    memory.map(where, 0, memory.create(3))
    where.tensor(0, (4,), torch.int32).copy_(torch.arange(4))
    assert device.driver.calls.count("cuMemCreate") == 3
    memory.unmap(where, 0, 3)
    where.close()
    memory.close()
    device.driver.assert_nothing_leaked()
    with pytest.raises(ConfigError, match="multiple of 64, the granularity of GPU 0"):
        device.make_memory(4096)


def test_only_a_gpu_still_computes_when_the_next_step_is_planned():
    devices = CpuDevice(), CudaDevice(0, Cuda()), ReferenceDevice()
    assert [device.lag for device in devices] == [0, 1, 0]


def test_a_process_has_one_reference_device():
    assert device_of_process() is device_of_process()


class Cuda:
    """Of torch.cuda."""

    def __init__(self):
        self.calls = []

    def synchronize(self, device):
        self.calls.append(("synchronize", str(device)))

    def empty_cache(self):
        self.calls.append("empty_cache")

    def current_stream(self, device):
        return SimpleNamespace(synchronize=lambda: self.calls.append(("stream", str(device))))


def test_a_gpu_s_order_is_that_of_its_streams():
    cuda = Cuda()
    device = CudaDevice(1, cuda)
    assert device.crowding(8) == 1.0
    device.synchronize()
    device.return_freed_memory()
    mover = device.make_mover(blocks(), group(1), finest=4, staging_bytes=1)
    mover._settle()
    assert cuda.calls == [("synchronize", "cuda:1"), "empty_cache", ("stream", "cuda:1")]
    before = device.copy_seconds()
    assert device.copy_seconds() >= before


def test_a_gpu_s_groups_gather_once_before_anybody_waits_for_them(monkeypatch):
    asked, cuda = [], Cuda()
    monkeypatch.setattr(torch, "zeros", lambda count, device: f"{count} on {device}")
    group = SimpleNamespace(
        all_reduce=lambda x: asked.append(("sum", x)), all_gather=lambda x, dim: asked.append(x)
    )
    CudaDevice(1, cuda).warm_up(group)
    assert asked == [("sum", "16 on cuda:1"), "16 on cuda:1"]
    assert cuda.calls == [("synchronize", "cuda:1")]


def test_what_is_taken_of_a_gpu_is_said_and_of_the_host_is_not(caplog):
    cuda = Cuda()
    free = iter([10 << 20, 7 << 20])
    cuda.mem_get_info = lambda device: (next(free), 1 << 30)
    caplog.set_level("INFO")
    with CudaDevice(0, cuda).weigh("communicators of degree 2"):
        pass
    with ReferenceDevice().weigh("steps"), CpuDevice().weigh("steps"):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "communicators of degree 2: 3 MiB of a worker's memory"
    ]


def test_a_gpu_without_a_driver_is_named():
    with pytest.raises(MemoryFault, match="on GPU 0: no usable NVIDIA driver"):
        CudaDevice(0, Cuda()).make_memory(2 << 20)


def test_memory_that_the_driver_leaves_dirty_is_cleared_before_it_is_read():
    """Attention multiplies what it masks by 0, and 0 times NaN is NaN."""
    memory = ReferenceDevice().make_memory(64 << 10)
    pages = memory.create(1)
    where = memory.reserve(memory.page_size)
    memory.map(where, 0, pages)
    assert where.tensor(0, (4,), torch.float32).isnan().all() and not memory.zeroed
    ranges = KVRanges(memory, 1, base_rows=40, row_bytes=4096, most_grown=1 << 16)
    size = ranges.base_pages * memory.page_size // 4
    assert not any(half.any() for half in ranges.layer(0, (size,), torch.float32))
    # 6 of 64 KiB are left of the second page.
    matrices = WeightPages(DegreeChain((1, 2)), memory.page_size, ((60 << 10, 62 << 10),))
    store = WeightStore(memory, matrices, 0)
    for number, count in enumerate(matrices.matrices):
        store.shards(number, (count // 2,), torch.uint8)
    assert not store.weights_of(memory.open_peer(memory.export())).any()
    memory.close()
