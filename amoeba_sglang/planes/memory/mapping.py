"""mmap with a fixed address, and tensors over raw addresses."""

import ctypes
import errno
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch

from amoeba_sglang.planes.memory.base import MemoryFault, require_view

READ, WRITE, NONE = mmap.PROT_READ, mmap.PROT_WRITE, 0
_FIXED = 0x10
_NORESERVE = 0x4000
# MAYMOVE, FIXED, DONTUNMAP: the source's addresses stay taken, so that no other thread gets them.
_MOVE_LEAVING_ADDRESSES = 1 | 2 | 4
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_int64]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, *2 * [ctypes.c_size_t], ctypes.c_int, ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class MappedRange:
    """`size` bytes of addresses from `address` on; unmapped at close() or when nothing refers to
    it.
    """

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        # At exit other threads may still use the views, and the system frees everything anyway.
        self._finalizer = weakref.finalize(self, _libc.munmap, address, size)
        self._finalizer.atexit = False

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See AddressRange.tensor."""
        assert self._finalizer.alive, "the range is closed"
        nbytes = require_view(self.size, offset, shape, dtype)
        buffer = (ctypes.c_char * nbytes).from_address(self.address + offset)
        buffer.owner = self
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            return torch.frombuffer(buffer, dtype=dtype).view(tuple(shape))

    def close(self) -> None:
        """See AddressRange.close."""
        self._finalizer()


def reserve(size: int, alignment: int) -> MappedRange:
    """Addresses without memory, aligned to `alignment` bytes (a power of two)."""
    start = _mmap(0, size + alignment, NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    address = -(-start // alignment) * alignment
    if address > start:
        _libc.munmap(start, address - start)
    if tail := start + alignment - address:
        _libc.munmap(address + size, tail)
    return MappedRange(address, size)


def map_file(size: int, protection: int, descriptor: int) -> MappedRange:
    """The first `size` bytes of a file, shared."""
    return MappedRange(_mmap(0, size, protection, mmap.MAP_SHARED, descriptor), size)


def map_file_at(address: int, size: int, descriptor: int, offset: int, populate: bool) -> None:
    """Replace `size` bytes of a mapped range by a part of a file, shared and writable."""
    flags = mmap.MAP_SHARED | _FIXED | (mmap.MAP_POPULATE if populate else 0)
    _mmap(address, size, READ | WRITE, flags, descriptor, offset=offset)


def block_at(address: int, size: int) -> None:
    """Replace `size` bytes of a mapped range by nothing, addresses still taken."""
    _mmap(address, size, NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE | _FIXED)


def move(source: int, target: int, size: int) -> None:
    """Move `size` bytes of a file's mapping to other mapped addresses, replacing what is there.

    What has been touched stays so: moving a page costs some 15 ns, touching one again 600. At the
    source the file stays mapped, untouched. Linux 5.13 or newer.
    """
    if _libc.mremap(source, size, size, _MOVE_LEAVING_ADDRESSES, target) == _FAILED:
        raise _refusal(f"moving the mapping of {size} bytes")


def return_freed_memory() -> None:
    """Give the machine what this process has freed; glibc keeps blocks of the size of a matrix."""
    _libc.malloc_trim(0)


def mappings_in_use() -> int:
    """Number of mappings (virtual memory areas) of this process."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def mapping_limit() -> int:
    """vm.max_map_count: the most mappings a process may have."""
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def _mmap(
    address: int, size: int, protection: int, flags: int, descriptor: int = -1, offset: int = 0
) -> int:
    arguments = address, size, protection, flags, descriptor, offset
    result = _libc.mmap(*arguments)
    if result != _FAILED:
        return result
    raise _refusal(f"mapping {size} bytes")


def _refusal(what: str) -> MemoryFault:
    """The error of the system call that has just failed."""
    code = ctypes.get_errno()
    advice = ""
    if code == errno.ENOMEM:
        advice = (
            f"; this process has {mappings_in_use()} mappings and vm.max_map_count is "
            f"{mapping_limit()}: raise --amoeba-page-size-kib, or `sysctl vm.max_map_count`, or "
            f"add memory"
        )
    return MemoryFault(f"{what} failed: {os.strerror(code)}{advice}")
