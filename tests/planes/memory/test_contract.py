"""What every backend of the memory interface does."""

import gc
import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.planes.memory import mapping
from amoeba_sglang.planes.memory.base import MemoryFault, MemoryHandle
from tests.planes.memory.pages import areas, make_memory, mapped, page_view, permissions
from tests.processes import run_workers

BACKENDS = ["host", "cuda"]


@pytest.fixture(params=BACKENDS)
def memory(request):
    memory = make_memory(request.param)
    yield memory
    memory.close()
    memory.close()
    if request.param == "cuda":
        gc.collect()
        memory.stand_in.assert_nothing_leaked()


def fill(where, memory, values):
    for position, value in enumerate(values):
        page_view(where, position, memory.page_size).fill_(value)


def read(where, memory, positions):
    """The first and the last byte of pages, which must be the same, by position."""
    views = [page_view(where, position, memory.page_size) for position in positions]
    assert all(view[0] == view[-1] for view in views)
    return [int(view[0]) for view in views]


def test_a_reservation_is_aligned_rounded_and_costs_nothing(memory):
    where = memory.reserve(10 * memory.page_size - 7)
    assert where.address % memory.page_size == 0
    assert where.size == 10 * memory.page_size
    assert permissions(where, memory.page_size) == ["--"] * 10
    assert memory.physical_bytes() == 0


def test_pages_are_numbered_and_charged_at_the_latest_when_touched(memory):
    assert memory.create(3) == range(0, 3)
    assert memory.create(0) == range(3, 3)
    assert memory.create(2) == range(3, 5)
    where = memory.reserve(5 * memory.page_size)
    memory.map(where, 0, range(5), populate=True)
    assert memory.physical_bytes() == 5 * memory.page_size


def test_pages_keep_their_bytes_wherever_they_are_mapped(memory):
    where, _ = mapped(memory, 4)
    fill(where, memory, [1, 2, 3, 4])
    other = memory.reserve(6 * memory.page_size)
    memory.unmap(where, 0, 4)
    memory.map(other, memory.page_size, [3, 1, 2, 0])
    assert read(other, memory, range(1, 5)) == [4, 2, 3, 1]
    assert permissions(other, memory.page_size) == ["--"] + ["rw"] * 4 + ["--"]


def test_a_map_replaces_what_was_there(memory):
    where, pages = mapped(memory, 3)
    fill(where, memory, [1, 2, 3])
    memory.map(where, 0, list(reversed(pages)))
    assert read(where, memory, range(3)) == [3, 2, 1]
    memory.map(where, memory.page_size, memory.create(1))
    memory.map(where, 0, [1])
    assert read(where, memory, [0, 2]) == [2, 1]


def test_unmap_keeps_the_range_reserved_and_the_memory_charged(memory):
    where, _ = mapped(memory, 4)
    fill(where, memory, [7] * 4)
    memory.unmap(where, memory.page_size, 2)
    assert permissions(where, memory.page_size) == ["rw", "--", "--", "rw"]
    assert memory.physical_bytes() == 4 * memory.page_size
    assert read(where, memory, [0, 3]) == [7, 7]
    memory.unmap(where, 0, 0)
    memory.unmap(where, 0, 4)
    assert permissions(where, memory.page_size) == ["--"] * 4


def test_a_tensor_keeps_its_range_alive(memory):
    where, _ = mapped(memory, 2)
    addresses = SimpleNamespace(address=where.address, size=where.size)
    view = where.tensor(memory.page_size - 4, (3, 2), torch.bfloat16)
    view.fill_(2.5)
    del where
    gc.collect()
    assert view.sum() == 15
    assert permissions(addresses, memory.page_size) == ["rw", "rw"]
    del view
    gc.collect()
    assert areas(addresses) == []


def test_a_closed_range_gives_no_views(memory):
    where, _ = mapped(memory, 1)
    where.close()
    where.close()
    with pytest.raises(AssertionError, match="closed"):
        where.tensor(0, (1,), torch.uint8)


def test_views_and_pages_outside_of_the_range_are_refused(memory):
    where, pages = mapped(memory, 2)
    for offset in (-1, where.size - 3):
        with pytest.raises(AssertionError):
            where.tensor(offset, (1,), torch.float32)
    with pytest.raises(AssertionError):
        where.tensor(0, (0,), torch.float32)
    for offset, chosen in ((memory.page_size, pages), (1, [0]), (0, [2]), (0, [-1])):
        with pytest.raises(AssertionError):
            memory.map(where, offset, chosen)
    with pytest.raises(AssertionError):
        memory.unmap(where, memory.page_size, 2)


def test_views_made_in_inference_mode_stay_writable(memory):
    where, _ = mapped(memory, 1)
    with torch.inference_mode():
        view = page_view(where, 0, memory.page_size)
    view.fill_(1)
    assert view[-1] == 1


def test_a_range_outlives_its_memory(memory):
    where, _ = mapped(memory, 2)
    fill(where, memory, [1, 2])
    peer = memory.open_peer(memory.export())
    memory.close()
    assert read(where, memory, range(2)) == read(peer, memory, range(2)) == [1, 2]


def test_addresses_that_cannot_be_had_are_a_memory_fault(memory):
    with pytest.raises(MemoryFault, match=r"\d{19} bytes"):
        memory.reserve(1 << 60)


def test_a_peer_that_is_gone_is_named(memory):
    gone = MemoryHandle(999999999, 3, memory.page_size, 1)
    with pytest.raises(MemoryFault, match=r"worker process 999999999.* --amoeba-transport"):
        memory.open_peer(gone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opening_and_closing_leaves_nothing_behind(backend):
    def cycle():
        memory = make_memory(backend)
        where, _ = mapped(memory, 4)
        page_view(where, 0, memory.page_size)[0] = 1
        peer = memory.open_peer(memory.export())
        memory.unmap(where, 0, 2)
        memory.open_peer(memory.export()).close()
        for thing in (peer, where, memory):
            thing.close()
        if backend == "cuda":
            memory.stand_in.assert_nothing_leaked()

    cycle()
    mappings, descriptors = mapping.mappings_in_use(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    # Less than one a cycle: the allocators of other libraries map memory at times.
    assert mapping.mappings_in_use() < mappings + 25


def share(rank, n, backend):
    memory = make_memory(backend)
    where, pages = mapped(memory, 3)
    memory.map(where, 0, [1, 0, 2])
    fill(where, memory, [rank + 1] * 3)
    handles = [None] * n
    dist.all_gather_object(handles, memory.export())
    peer = memory.open_peer(handles[1 - rank])
    written = memory.open_peer(handles[1 - rank], writable=True)
    seen = read(peer, memory, pages)
    dist.barrier()
    page_view(written, 1, memory.page_size).fill_(40 + rank)
    dist.barrier()
    # Page 1 of this worker is mapped at position 0.
    kept = read(where, memory, [0, 1])
    found = permissions(peer, memory.page_size)
    for thing in (peer, written, where, memory):
        thing.close()
    if backend == "cuda":
        memory.stand_in.assert_nothing_leaked()
    # The peer may still be reading.
    dist.barrier()
    return seen, found, kept


@pytest.mark.parametrize("backend", BACKENDS)
def test_peers_read_and_write_each_others_pages_in_page_order(backend):
    for rank, (seen, found, kept) in enumerate(run_workers(2, share, backend)):
        assert seen == [2 - rank] * 3
        assert found == ["r-"] * 3
        assert kept == [40 + 1 - rank, rank + 1]
