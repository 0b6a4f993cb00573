"""GPU memory on a stand-in for the driver: what the contract does not say."""

import gc
import resource
import sys
from types import SimpleNamespace

import pytest
import torch
from cuda.bindings import driver as real

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory import cuda, cuda_range
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.memory.driver import Driver
from amoeba_sglang.planes.reference.driver import GRANULARITY as PAGE
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes
from tests.planes.memory.pages import make_memory, mapped, page_view, permissions


@pytest.fixture
def memory():
    memory = make_memory("cuda")
    yield memory
    memory.close()
    gc.collect()
    memory.stand_in.assert_nothing_leaked()


def test_a_create_without_memory_says_how_far_it_came(memory):
    memory.stand_in.fail("cuMemCreate", 3, real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    with pytest.raises(MemoryFault, match=r"page 3 of 4: cuMemCreate .* --mem-fraction-static"):
        memory.create(4)
    assert memory.physical_bytes() == 0
    assert memory.create(1) == range(0, 1)


def test_pages_are_created_once_and_access_is_set_once_a_stretch(memory):
    where, pages = mapped(memory, 5)
    peer = memory.open_peer(memory.export())
    memory.stand_in.calls.clear()
    memory.unmap(where, 0, 5)
    memory.map(where, 0, list(reversed(pages)))
    calls = memory.stand_in.calls
    assert "cuMemCreate" not in calls
    assert calls.count("cuMemSetAccess") == 1
    peer.close()


def test_a_page_that_stays_is_not_touched(memory):
    where, _ = mapped(memory, 3)
    memory.stand_in.calls.clear()
    memory.map(where, 0, [0, 1, 2])
    assert memory.stand_in.calls == ["cuMemSetAccess"]


def test_a_page_is_mapped_once_in_a_call(memory):
    where, _ = mapped(memory, 2)
    with pytest.raises(AssertionError):
        memory.map(where, 0, [0, 0])


def test_more_pages_than_fit_in_one_message():
    stand_in = ReferenceDriver(granularity=4096)
    memory = CudaMemory(4096, 0, stand_in, view_bytes)
    where, pages = mapped(memory, 2 * cuda.BATCH + 3)
    for page in pages:
        where.tensor(page * 4096, (1,), torch.int32).fill_(page)
    peer = memory.open_peer(memory.export())
    heads = peer.tensor(0, (len(pages), 1024), torch.int32)[:, 0]
    assert heads.tolist() == list(pages)
    for thing in (where, peer, memory):
        thing.close()
    stand_in.assert_nothing_leaked()


def test_an_extent_is_one_allocation_that_peers_open_as_one():
    stand_in = ReferenceDriver(granularity=4096)
    memory = CudaMemory(4096, 0, stand_in, view_bytes)
    where = memory.reserve(300 * 4096)
    single = memory.create(2)
    extent = memory.create(5, as_extent=True)
    more = memory.create(1)
    for at, pages in ((0, extent), (10, single), (20, more)):
        memory.map(where, at * 4096, pages)
    assert stand_in.calls.count("cuMemCreate") == stand_in.calls.count("cuMemMap") == 4
    for at, value in ((0, 3), (4, 4), (10, 1), (11, 2), (20, 5)):
        page_view(where, at, 4096).fill_(value)
    handle = memory.export()
    assert (handle.pages, handle.extents) == (8, ((2, 5),))
    peer = memory.open_peer(handle)
    # By page id: the single ones, then the extent's first and last, then the last one.
    found = [int(page_view(peer, page, 4096)[-1]) for page in (0, 1, 2, 6, 7)]
    assert found == [1, 2, 3, 4, 5]
    memory.unmap(where, 0, 5)
    assert permissions(where, 4096)[:5] == ["--"] * 5
    memory.map(where, 100 * 4096, extent)
    assert int(page_view(where, 104, 4096)[0]) == 4
    for thing in (where, peer, memory):
        thing.close()
    stand_in.assert_nothing_leaked()


@pytest.mark.parametrize("change", ["map a part", "map in another order", "unmap a part"])
def test_an_extent_goes_whole_or_not_at_all(change):
    stand_in = ReferenceDriver(granularity=4096)
    memory = CudaMemory(4096, 0, stand_in, view_bytes)
    where, extent = memory.reserve(8 * 4096), memory.create(3, as_extent=True)
    memory.map(where, 0, extent)
    with pytest.raises(AssertionError, match="of an extent"):
        if change == "unmap a part":
            memory.unmap(where, 0, 2)
        else:
            pages = extent[:2] if change == "map a part" else extent[::-1]
            memory.map(where, 4096 * 4, pages)
    assert permissions(where, 4096)[:3] == ["rw"] * 3
    where.close()
    memory.close()
    stand_in.assert_nothing_leaked()


def test_an_extent_that_cannot_be_mapped_leaves_what_was_there():
    stand_in = ReferenceDriver(granularity=4096)
    memory = CudaMemory(4096, 0, stand_in, view_bytes)
    where, old = memory.reserve(4 * 4096), memory.create(4)
    memory.map(where, 0, old)
    page_view(where, 2, 4096).fill_(7)
    new = memory.create(4, as_extent=True)
    stand_in.fail("cuMemMap", 1, real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    with pytest.raises(MemoryFault):
        memory.map(where, 0, new)
    assert int(page_view(where, 2, 4096)[-1]) == 7
    where.close()
    memory.close()
    stand_in.assert_nothing_leaked()


def test_the_limit_of_descriptors_is_checked_before_anything_is_exported(memory, monkeypatch):
    memory.create(8)
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda which: (cuda.BATCH + 8, 4096))
        with pytest.raises(
            MemoryFault,
            match=r"sharing 8 pages of 2048 KiB, .* beside \d+ in use .* 136; .* \(up to 4096\)",
        ):
            memory.export()
    assert "cuMemExportToShareableHandle" not in memory.stand_in.calls
    memory.export()


@pytest.mark.parametrize("size", [0, 65536, PAGE // 2, 3 * PAGE])
def test_page_sizes_the_gpu_cannot_have_are_refused(size):
    with pytest.raises(
        ConfigError, match=rf"--amoeba-page-size-kib {size / 1024:g}: .* multiple of 2048"
    ):
        CudaMemory(size, 0, ReferenceDriver(), view_bytes)


def test_a_missing_driver_is_one_line():
    def call(*arguments):
        raise RuntimeError("not found:\n  libcuda.so.1")

    functions = {"cuMemGetAllocationGranularity": call}
    with pytest.raises(MemoryFault, match=r"^[^\n]*no usable NVIDIA driver [^\n]*: not found:.*$"):
        CudaMemory(PAGE, 0, SimpleNamespace(**vars(real) | functions))


def test_missing_bindings_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(ConfigError, match="cuda.bindings.driver .* `pip install cuda-python`"):
        CudaMemory(PAGE, 0)


def test_pytorch_is_told_the_device_and_keeps_the_owner(monkeypatch):
    monkeypatch.setattr(torch, "as_tensor", lambda data, device: (data, device))
    owner = object()
    data, device = cuda_range.view_device_bytes(3, 0x7000, 64, owner)
    assert device == "cuda:3"
    assert data.owner is owner
    interface = data.__cuda_array_interface__
    assert (interface["data"], interface["shape"], interface["typestr"]) == (
        (0x7000, False),
        (64,),
        "|u1",
    )


def has_driver():
    try:
        return real.cuInit(0) is not None
    except RuntimeError:
        return False


@pytest.mark.skipif(has_driver(), reason="a driver would act on made-up handles and addresses")
def test_the_bindings_take_what_they_are_given():
    handle = real.CUmemGenericAllocationHandle(1)
    functions = {"cuMemGetAllocationGranularity": lambda *arguments: (0, PAGE)}
    driver = Driver(PAGE, 0, SimpleNamespace(**vars(real) | functions))
    for call, arguments in {
        driver.reserve: (PAGE,),
        driver.free: (PAGE, PAGE),
        driver.create: (3,),
        driver.release: (handle,),
        driver.map: (PAGE, 3, handle),
        driver.unmap: (PAGE, 3),
        driver.allow: (PAGE, 3, True),
        driver.export: (handle,),
        driver.open: (0,),
    }.items():
        # They check the arguments first (TypeError), then look for the library.
        with pytest.raises(MemoryFault, match=r"bytes on GPU 0: no usable NVIDIA driver"):
            call(*arguments)
