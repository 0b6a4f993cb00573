import gc
import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.memory import mapping
from amoeba_sglang.memory.base import MemoryFault, MemoryHandle
from amoeba_sglang.memory.host import HostMemory, check_mappings
from tests.processes import run_workers

PAGE = 65536


@pytest.fixture
def memory():
    memory = HostMemory(PAGE)
    yield memory
    memory.close()


def areas(where):
    """(start, end, permissions) of the process's mappings inside a range, in order."""
    found = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, permissions = line.split()[:2]
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = max(start, where.address), min(end, where.address + where.size)
            if start < end:
                found.append((start - where.address, end - where.address, permissions))
    return found


def page_view(where, position):
    return where.tensor(position * PAGE, (PAGE,), torch.uint8)


def mapped(memory, count):
    where = memory.reserve(count * PAGE)
    pages = memory.create(count)
    memory.map(where, 0, pages)
    return where, pages


@pytest.mark.parametrize("size", [4096, 65536, 2 << 20])
def test_a_reservation_is_aligned_rounded_and_costs_nothing(size):
    memory = HostMemory(size)
    where = memory.reserve(10 * size - 7)
    assert where.address % size == 0
    assert where.size == 10 * size
    assert areas(where) == [(0, 10 * size, "---p")]
    assert memory.physical_bytes() == 0


def test_pages_are_numbered_and_charged_when_touched(memory):
    assert memory.create(3) == range(0, 3)
    assert memory.create(2) == range(3, 5)
    where = memory.reserve(5 * PAGE)
    memory.map(where, 0, range(5))
    assert memory.physical_bytes() == 0
    page_view(where, 1).fill_(1)
    assert memory.physical_bytes() == PAGE


def test_populate_charges_at_once(memory):
    where = memory.reserve(4 * PAGE)
    memory.map(where, 0, memory.create(4), populate=True)
    assert memory.physical_bytes() == 4 * PAGE


def test_pages_keep_their_bytes_wherever_they_are_mapped(memory):
    where, pages = mapped(memory, 4)
    for page in pages:
        page_view(where, page).fill_(page + 1)
    other = memory.reserve(6 * PAGE)
    memory.unmap(where, 0, 4)
    memory.map(other, PAGE, [3, 1, 2, 0])
    assert [int(page_view(other, i)[-1]) for i in range(1, 5)] == [4, 2, 3, 1]
    spans = [(start, end) for start, end, permissions in areas(other) if permissions == "rw-s"]
    assert spans == [(PAGE, 2 * PAGE), (2 * PAGE, 4 * PAGE), (4 * PAGE, 5 * PAGE)]


def test_unmap_keeps_the_range_reserved_and_the_memory_charged(memory):
    where, _ = mapped(memory, 4)
    where.tensor(0, (4 * PAGE,), torch.uint8).fill_(7)
    memory.unmap(where, PAGE, 2)
    assert areas(where) == [
        (0, PAGE, "rw-s"),
        (PAGE, 3 * PAGE, "---p"),
        (3 * PAGE, 4 * PAGE, "rw-s"),
    ]
    assert memory.physical_bytes() == 4 * PAGE
    assert int(page_view(where, 3)[0]) == 7


def test_release_gives_memory_back_and_pages_come_again_as_zeros(memory):
    where, pages = mapped(memory, 4)
    where.tensor(0, (4 * PAGE,), torch.uint8).fill_(7)
    memory.unmap(where, 0, 2)
    memory.release([0, 1])
    assert memory.physical_bytes() == 2 * PAGE
    memory.map(where, 0, pages[:2])
    assert not page_view(where, 1).any()
    assert bool((page_view(where, 2) == 7).all())


def test_pages_that_come_home_make_one_mapping_again(memory):
    where, pages = mapped(memory, 8)
    memory.map(where, 0, list(reversed(pages)))
    assert len(areas(where)) == 8
    memory.map(where, 0, pages)
    assert areas(where) == [(0, 8 * PAGE, "rw-s")]


def test_a_tensor_keeps_its_range_alive(memory):
    where, _ = mapped(memory, 2)
    addresses = SimpleNamespace(address=where.address, size=where.size)
    view = where.tensor(PAGE - 4, (3, 2), torch.bfloat16)
    view.fill_(2.5)
    del where
    gc.collect()
    assert view.sum() == 15
    assert areas(addresses) == [(0, 2 * PAGE, "rw-s")]
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
    for offset in (-1, 2 * PAGE - 3):
        with pytest.raises(AssertionError):
            where.tensor(offset, (1,), torch.float32)
    with pytest.raises(AssertionError):
        memory.map(where, PAGE, pages)
    with pytest.raises(AssertionError):
        memory.map(where, 1, pages[:1])
    with pytest.raises(AssertionError):
        memory.map(where, 0, [2])


def test_views_made_in_inference_mode_stay_writable(memory):
    where, _ = mapped(memory, 1)
    with torch.inference_mode():
        view = page_view(where, 0)
    view.fill_(1)
    assert view[-1] == 1


@pytest.mark.parametrize("size", [0, 1024, 3 * 4096, 4 << 20])
def test_page_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(ConfigError, match=rf"--amoeba-page-size-kib {size / 1024:g}: .* 4 to 2048"):
        HostMemory(size)


def test_the_mapping_budget_is_checked_before_anything_moves(monkeypatch):
    used = mapping.mappings_in_use()
    monkeypatch.setattr(mapping, "mapping_limit", lambda: 2 * used)
    check_mappings(range(10_000), PAGE)
    with pytest.raises(
        MemoryFault, match=rf"10000 mappings .* 80% of vm.max_map_count \({2 * used}"
    ):
        check_mappings(range(0, 20_000, 2), PAGE)


def test_a_refused_mapping_names_the_limits(memory):
    with pytest.raises(MemoryFault, match=r"Cannot allocate memory; .* vm.max_map_count is \d+"):
        memory.reserve(1 << 60)


def test_a_peer_that_is_gone_is_named(memory):
    with pytest.raises(MemoryFault, match=r"worker process 999999999 .* --amoeba-transport"):
        memory.open_peer(MemoryHandle(999999999, 3, PAGE, 1))


def test_opening_and_closing_leaves_nothing_behind():
    def cycle():
        memory = HostMemory(PAGE)
        where, pages = mapped(memory, 4)
        page_view(where, 0).fill_(1)
        peer = memory.open_peer(memory.export())
        memory.unmap(where, 0, 2)
        memory.release(pages[:2])
        for thing in (peer, where, memory):
            thing.close()

    cycle()
    mappings, descriptors = mapping.mappings_in_use(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        cycle()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    # Less than one a cycle: the allocators of other libraries map memory at times.
    assert mapping.mappings_in_use() < mappings + 25


def share(rank, n):
    memory = HostMemory(PAGE)
    where, pages = mapped(memory, 3)
    memory.map(where, 0, [1, 0, 2])
    where.tensor(0, (3 * PAGE,), torch.uint8).fill_(rank + 1)
    handles = [None] * n
    dist.all_gather_object(handles, memory.export())
    peer = memory.open_peer(handles[1 - rank])
    written = memory.open_peer(handles[1 - rank], writable=True)
    seen = [int(page_view(peer, page)[0]) for page in pages]
    dist.barrier()
    page_view(written, 1).fill_(40 + rank)
    dist.barrier()
    # Page 1 of this worker is mapped at position 0.
    return seen, areas(peer), int(page_view(where, 0)[0]), int(page_view(where, 1)[0])


def test_peers_read_and_write_each_others_pages_in_page_order():
    results = run_workers(2, share)
    for rank, (seen, found, written, kept) in enumerate(results):
        assert seen == [2 - rank] * 3
        assert found == [(0, 3 * PAGE, "r--s")]
        assert written == 40 + 1 - rank
        assert kept == rank + 1
