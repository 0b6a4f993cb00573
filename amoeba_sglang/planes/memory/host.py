"""Host memory: the pages of a worker are the pages of one anonymous memory file.

Mapping a file costs a fault for every few of the system's pages, as much as half of the time that
copying them takes. So an unmapped page is not forgotten but moved, page table entries and all, into
a mapping of the whole file that nobody touches, the parking, and is moved from there when it is
mapped again.
"""

import itertools
import mmap
import os
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from amoeba_sglang.config import MAPPING_SHARE, MAX_PAGE_SIZE_KIB
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory import mapping
from amoeba_sglang.planes.memory.base import Memory, MemoryFault, MemoryHandle
from amoeba_sglang.planes.memory.runs import find_runs

_LARGEST_PAGE = MAX_PAGE_SIZE_KIB << 10
# Consecutive to no id.
_NONE = -2


class HostMemory(Memory):
    """One memory file per worker, page i at offset i * page_size.

    `page_size`: a power of two from the system's page (4 KiB) to 2 MiB, else ConfigError. The file
    has no name and vanishes with the last process that has it open or mapped.
    """

    smallest_page = mmap.PAGESIZE

    def __init__(self, page_size: int) -> None:
        if page_size & (page_size - 1) or not mmap.PAGESIZE <= page_size <= _LARGEST_PAGE:
            raise ConfigError(
                f"--amoeba-page-size-kib {page_size / 1024:g}: must be a power of two from "
                f"{mmap.PAGESIZE // 1024} to {_LARGEST_PAGE // 1024}"
            )
        self.page_size = page_size
        self._pages = 0
        # Of every reservation the id of the page at each place, or _NONE.
        self._mapped: WeakKeyDictionary[mapping.MappedRange, np.ndarray] = WeakKeyDictionary()
        self._parking: mapping.MappedRange | None = None
        # Bool by page id: in the parking, with all that it has been touched for.
        self._parked = np.zeros(0, dtype=bool)
        self._descriptor = os.memfd_create("amoeba-pages", os.MFD_CLOEXEC)

    def reserve(self, size: int) -> mapping.MappedRange:
        count = -(-size // self.page_size)
        where = mapping.reserve(count * self.page_size, self.page_size)
        self._mapped[where] = np.full(count, _NONE, dtype=np.int64)
        return where

    def create(self, count: int, as_extent: bool = False) -> range:
        assert count >= 0, count
        first, self._pages = self._pages, self._pages + count
        os.ftruncate(self._descriptor, self._pages * self.page_size)
        self._parked = np.append(self._parked, np.zeros(count, dtype=bool))
        return range(first, self._pages)

    def map(
        self, where: mapping.MappedRange, offset: int, pages: Sequence[int], populate: bool = False
    ) -> None:
        address, places = self._address(where, offset, len(pages)), self._places(where, offset)
        place = 0
        for first, count in find_runs(pages):
            assert 0 <= first <= self._pages - count, (first, count, self._pages)
            places[place : place + count] = _NONE
            for start, size, parked in self._by_parking(first, count):
                there = address + (place + start - first) * self.page_size
                if parked:
                    source = self._parking.address + start * self.page_size
                    mapping.move(source, there, size * self.page_size)
                    self._parked[start : start + size] = False
                else:
                    mapping.map_file_at(
                        there, size * self.page_size, self._descriptor, start * self.page_size,
                        populate,
                    )  # fmt: skip
            places[place : place + count] = np.arange(first, first + count)
            place += count

    def unmap(self, where: mapping.MappedRange, offset: int, count: int) -> None:
        if not count:
            return
        address, places = self._address(where, offset, count), self._places(where, offset)[:count]
        self._make_parking()
        place = 0
        for first, size in find_runs(places.tolist()):
            if first != _NONE:
                target = self._parking.address + first * self.page_size
                mapping.move(address + place * self.page_size, target, size * self.page_size)
                self._parked[first : first + size] = True
                places[place : place + size] = _NONE
            place += size
        mapping.block_at(address, count * self.page_size)

    def physical_bytes(self) -> int:
        return os.fstat(self._descriptor).st_blocks * 512

    def export(self) -> MemoryHandle:
        return MemoryHandle(os.getpid(), self._descriptor, self.page_size, self._pages)

    def open_peer(self, handle: MemoryHandle, writable: bool = False) -> mapping.MappedRange:
        path = f"/proc/{handle.pid}/fd/{handle.descriptor}"
        try:
            # Opened read-only, not only mapped so: no later change of protection makes it writable.
            descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise MemoryFault(
                f"cannot open the memory of worker process {handle.pid} ({path}): "
                f"{error.strerror}; all workers must run as the same user in one PID namespace, "
                f"else use --amoeba-transport collective"
            ) from error
        try:
            protection = mapping.READ | (mapping.WRITE if writable else 0)
            return mapping.map_file(handle.pages * handle.page_size, protection, descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._parking = -1, None

    def _places(self, where: mapping.MappedRange, offset: int) -> np.ndarray:
        """The ids of the pages mapped from `offset` on."""
        return self._mapped[where][offset // self.page_size :]

    def _make_parking(self) -> None:
        """Have a parking for all pages that exist; a page in a smaller one is touched again."""
        size = self._pages * self.page_size
        if self._parking is None or self._parking.size < size:
            self._parking = mapping.map_file(size, mapping.READ | mapping.WRITE, self._descriptor)
            self._parked[:] = False

    def _by_parking(self, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """Runs (first page, count, whether they are in the parking) of consecutive pages."""
        parked = self._parked[first : first + count].copy()
        cuts = [0, *(np.flatnonzero(np.diff(parked)) + 1).tolist(), count]
        for start, stop in itertools.pairwise(cuts):
            yield first + start, stop - start, bool(parked[start])

    def refusal(self, pages: Sequence[int]) -> str | None:
        """See Memory. At the limit even an unmap can fail, so a change that runs into it half way
        could not be undone."""
        needed = sum(1 for _ in find_runs(pages))
        used, limit = mapping.mappings_in_use(), mapping.mapping_limit()
        if used + needed <= MAPPING_SHARE * limit:
            return None
        return (
            f"{len(pages)} pages of {self.page_size // 1024} KiB need {needed} mappings beside "
            f"{used} in use, more than {MAPPING_SHARE:.0%} of vm.max_map_count ({limit}): "
            f"raise --amoeba-page-size-kib, or `sysctl vm.max_map_count`"
        )

    def _address(self, where: mapping.MappedRange, offset: int, count: int) -> int:
        size = count * self.page_size
        assert offset % self.page_size == 0, (offset, self.page_size)
        assert 0 <= offset <= where.size - size, (offset, size, where.size)
        return where.address + offset
