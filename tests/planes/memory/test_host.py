import re

import pytest
import torch

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory import mapping
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.host import HostMemory
from tests.planes.memory.pages import areas, mapped, page_view

PAGE = 65536


@pytest.fixture
def memory():
    memory = HostMemory(PAGE)
    yield memory
    memory.close()


@pytest.mark.parametrize("size", [4096, 65536, 2 << 20])
def test_a_reservation_is_one_aligned_mapping(size):
    memory = HostMemory(size)
    where = memory.reserve(10 * size - 7)
    assert where.address % size == 0
    assert areas(where) == [(0, 10 * size, "---p")]
    memory.close()


def test_pages_are_charged_when_touched(memory):
    where, _ = mapped(memory, 5)
    assert memory.physical_bytes() == 0
    page_view(where, 1, PAGE).fill_(1)
    assert memory.physical_bytes() == PAGE


def test_populate_charges_at_once(memory):
    where = memory.reserve(4 * PAGE)
    memory.map(where, 0, memory.create(4), populate=True)
    assert memory.physical_bytes() == 4 * PAGE


def test_neighbours_share_a_mapping(memory):
    other = memory.reserve(6 * PAGE)
    memory.create(4)
    memory.map(other, PAGE, [3, 1, 2, 0])
    spans = [(start, end) for start, end, permissions in areas(other) if permissions == "rw-s"]
    assert spans == [(PAGE, 2 * PAGE), (2 * PAGE, 4 * PAGE), (4 * PAGE, 5 * PAGE)]


def test_pages_that_come_home_make_one_mapping_again(memory):
    where, pages = mapped(memory, 8)
    memory.map(where, 0, list(reversed(pages)))
    assert len(areas(where)) == 8
    memory.map(where, 0, pages)
    assert areas(where) == [(0, 8 * PAGE, "rw-s")]


def resident(where):
    """Bytes of a range that cost no fault any more."""
    found = 0
    with open("/proc/self/smaps") as lines:
        inside = False
        for line in lines:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                inside = where.address <= int(first.split("-")[0], 16) < where.address + where.size
            elif inside and first == "Rss:":
                found += int(line.split()[1]) << 10
    return found


def test_a_page_that_was_touched_costs_no_fault_wherever_it_is_mapped_again(memory):
    """A split read weights at 0.7 of the speed of a copy: mapping their pages took the rest."""
    where, pages = mapped(memory, 8)
    where.tensor(0, (8 * PAGE,), torch.uint8).fill_(7)
    other = memory.reserve(4 * PAGE)
    memory.unmap(where, 2 * PAGE, 4)
    assert (resident(where), resident(other)) == (4 * PAGE, 0)
    memory.map(other, 0, pages[2:6])
    assert (resident(where), resident(other)) == (4 * PAGE, 4 * PAGE)
    memory.unmap(other, 0, 4)
    memory.map(where, 2 * PAGE, pages[2:6])
    assert (resident(where), resident(other)) == (8 * PAGE, 0)
    assert areas(where) == [(0, 8 * PAGE, "rw-s")]
    assert bool((where.tensor(0, (8 * PAGE,), torch.uint8) == 7).all())


def test_unmapped_pages_keep_no_mappings_of_their_own(memory):
    where, pages = mapped(memory, 32)
    other = memory.reserve(32 * PAGE)
    memory.unmap(where, 0, 32)
    before = mapping.mappings_in_use()
    for _ in range(3):
        for page in range(0, 32, 2):
            memory.map(other, page * PAGE, [page])
        memory.unmap(other, 0, 32)
        assert mapping.mappings_in_use() <= before + 1


@pytest.mark.parametrize("size", [0, 1024, 3 * 4096, 4 << 20])
def test_page_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(ConfigError, match=rf"--amoeba-page-size-kib {size / 1024:g}: .* 4 to 2048"):
        HostMemory(size)


def test_the_mapping_budget_is_checked_before_anything_moves(monkeypatch):
    used = mapping.mappings_in_use()
    monkeypatch.setattr(mapping, "mapping_limit", lambda: 2 * used)
    memory = HostMemory(PAGE)
    assert memory.refusal(range(10_000)) is None
    reason = memory.refusal(range(0, 20_000, 2))
    assert re.search(rf"10000 mappings .* 80% of vm.max_map_count \({2 * used}", reason)


def test_a_refused_mapping_names_the_limits(memory):
    with pytest.raises(MemoryFault, match=r"Cannot allocate memory; .* vm.max_map_count is \d+"):
        memory.reserve(1 << 60)
