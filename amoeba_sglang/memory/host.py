"""Host memory: the pages of a worker are the pages of one anonymous memory file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

from amoeba_sglang.config import MAPPING_SHARE, MAX_PAGE_SIZE_KIB
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.memory import mapping
from amoeba_sglang.memory.base import Memory, MemoryFault, MemoryHandle
from amoeba_sglang.memory.runs import find_runs

_LARGEST_PAGE = MAX_PAGE_SIZE_KIB << 10


class HostMemory(Memory):
    """One memory file per worker, page i at offset i * page_size.

    `page_size`: a power of two from the system's page (4 KiB) to 2 MiB, else ConfigError. The file
    has no name and vanishes with the last process that has it open or mapped.
    """

    def __init__(self, page_size: int) -> None:
        if page_size & (page_size - 1) or not mmap.PAGESIZE <= page_size <= _LARGEST_PAGE:
            raise ConfigError(
                f"--amoeba-page-size-kib {page_size / 1024:g}: must be a power of two from "
                f"{mmap.PAGESIZE // 1024} to {_LARGEST_PAGE // 1024}"
            )
        self.page_size = page_size
        self._pages = 0
        self._descriptor = os.memfd_create("amoeba-pages", os.MFD_CLOEXEC)

    def reserve(self, size: int) -> mapping.MappedRange:
        return mapping.reserve(-(-size // self.page_size) * self.page_size, self.page_size)

    def create(self, count: int) -> range:
        assert count >= 0, count
        first, self._pages = self._pages, self._pages + count
        os.ftruncate(self._descriptor, self._pages * self.page_size)
        return range(first, self._pages)

    def map(
        self, where: mapping.MappedRange, offset: int, pages: Sequence[int], populate: bool = False
    ) -> None:
        address = self._address(where, offset, len(pages))
        for first, count in find_runs(pages):
            assert 0 <= first <= self._pages - count, (first, count, self._pages)
            size = count * self.page_size
            mapping.map_file_at(address, size, self._descriptor, first * self.page_size, populate)
            address += size

    def unmap(self, where: mapping.MappedRange, offset: int, count: int) -> None:
        if count:
            mapping.block_at(self._address(where, offset, count), count * self.page_size)

    def release(self, pages: Sequence[int]) -> None:
        for first, count in find_runs(pages):
            mapping.punch(self._descriptor, first * self.page_size, count * self.page_size)

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
            self._descriptor = -1

    def _address(self, where: mapping.MappedRange, offset: int, count: int) -> int:
        size = count * self.page_size
        assert offset % self.page_size == 0, (offset, self.page_size)
        assert 0 <= offset <= where.size - size, (offset, size, where.size)
        return where.address + offset


def check_mappings(pages: Sequence[int], page_size: int) -> None:
    """Raise MemoryFault unless this process can map `pages`, in this order, beside what it has.

    To be called before the first unmap of a change: at the limit even an unmap can fail, so a
    change that runs into it half way cannot be undone.
    """
    needed = sum(1 for _ in find_runs(pages))
    used, limit = mapping.mappings_in_use(), mapping.mapping_limit()
    if used + needed > MAPPING_SHARE * limit:
        raise MemoryFault(
            f"{len(pages)} pages of {page_size // 1024} KiB need {needed} mappings beside "
            f"{used} in use, more than {MAPPING_SHARE:.0%} of vm.max_map_count ({limit}): "
            f"raise --amoeba-page-size-kib, or `sysctl vm.max_map_count`"
        )
