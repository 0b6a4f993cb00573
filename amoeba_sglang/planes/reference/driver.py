"""cuda.bindings.driver of the REFERENCE device, over host memory, stricter than the driver.

It takes and gives the real structs, enums and handles. What the driver documents as wrong or
undefined raises Misuse here, and is kept for assert_nothing_leaked(), because a finaliser that
raises fails no test. Memory is out of reach until cuMemSetAccess. A handle is a memory file, so
exported descriptors work between processes. `fail` makes a call return any CUresult instead.
"""

import bisect
import ctypes
import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cuda.bindings import driver as real

from amoeba_sglang.planes.memory import mapping
from amoeba_sglang.planes.memory.base import MemoryFault

GRANULARITY = 2 << 20
_FILE_NAME = "reference-driver"
_numbers = itertools.count()
_SHARED_AS = real.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_DEVICE_MEMORY = real.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
_PROTECTIONS = {
    real.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ: mapping.READ,
    real.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE: mapping.READ | mapping.WRITE,
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Misuse(AssertionError):
    """A call that the driver would refuse, or that it leaves undefined."""


@dataclass
class Allocation:
    """What a handle stands for: an open memory file of `size` bytes."""

    descriptor: int
    size: int


def _require(condition: object, *what: object) -> None:
    if not condition:
        raise Misuse(*what)


def _driver_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the call, return a planned failure, and the result as the bindings return it."""

    @functools.wraps(function)
    def call(self: Any, *arguments: Any) -> tuple[Any, ...]:
        name = function.__name__
        self.calls.append(name)
        self.counts[name] += 1
        planned = self._failures.pop((name, self.counts[name]), None)
        try:
            result = planned or real.CUresult.CUDA_SUCCESS
            value = None if planned else function(self, *arguments)
        except MemoryFault:
            result, value = real.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        except BaseException as error:
            self.misuses.append(f"{name}{arguments}: {error!r}")
            raise
        return (result,) if value is None and not result else (result, value)

    return call


class ReferenceDriver:
    """`device` is the only GPU of this process; `granularity` bytes is its smallest page.

    `dirty`: new memory is full of NaNs, not of zeros that cost nothing.
    """

    def __init__(
        self, device: int = 0, granularity: int = GRANULARITY, dirty: bool = False
    ) -> None:
        self.device, self._dirty = device, dirty
        self.granularity = granularity
        self.calls: list[str] = []
        self.misuses: list[str] = []
        self.reservations: dict[int, mapping.MappedRange] = {}
        self.allocations: dict[int, Allocation] = {}
        self.mappings: dict[int, int] = {}
        """Bytes mapped, by address."""
        self.before_unmap: Callable[[int, int], None] = lambda address, size: None
        """Told (address, bytes) before they are gone; may raise."""
        self.counts: Counter[str] = Counter()
        """Of all calls, by name."""
        self._failures: dict[tuple[str, int], real.CUresult] = {}
        self._last_handle = 0
        self._starts: list[int] = []
        # Of its own: several drivers of a process tell their files apart.
        self._file_name = f"{_FILE_NAME}-{os.getpid()}-{next(_numbers)}"

    def __getattr__(self, name: str) -> Any:
        assert name.startswith("CU"), f"the reference driver has no {name}"
        return getattr(real, name)

    def fail(self, name: str, number: int, result: real.CUresult) -> None:
        """Let the `number`-th call of `name` from now on (1: the next) do nothing but fail."""
        self._failures[name, self.counts[name] + number] = result

    def forget_failures(self) -> None:
        """Drop the planned failures whose calls have not come."""
        self._failures.clear()

    def assert_nothing_leaked(self) -> None:
        assert not self.misuses, self.misuses
        assert not self._failures, f"failures that never came: {self._failures}"
        assert not self.mappings, f"still mapped: {self.mappings}"
        assert not self.reservations, f"still reserved: {list(self.reservations)}"
        assert not self.allocations, f"handles not released: {list(self.allocations)}"
        assert self.open_files() == 0, "exported descriptors are still open"

    @_driver_call
    def cuMemGetAllocationGranularity(self, properties: Any, option: Any) -> Any:
        self._check_properties(properties)
        _require(isinstance(option, real.CUmemAllocationGranularity_flags), option)
        return self.granularity

    @_driver_call
    def cuMemAddressReserve(self, size: Any, alignment: Any, address: Any, flags: Any) -> Any:
        self._check_multiple(size)
        self._check_multiple(alignment)
        _require(not alignment & (alignment - 1), "alignment", alignment)
        _require(address == 0 and flags == 0, address, flags)
        reserved = mapping.reserve(size, alignment)
        self.reservations[reserved.address] = reserved
        self._starts = sorted(self.reservations)
        return real.CUdeviceptr(reserved.address)

    @_driver_call
    def cuMemAddressFree(self, address: Any, size: Any) -> Any:
        reserved = self.reservations.get(int(address))
        _require(reserved is not None and reserved.size == size, "not reserved so")
        _require(not self._mapped_in(int(address), size), "pages are mapped there")
        self.reservations.pop(int(address)).close()
        self._starts = sorted(self.reservations)

    @_driver_call
    def cuMemCreate(self, size: Any, properties: Any, flags: Any) -> Any:
        self._check_multiple(size)
        self._check_properties(properties)
        _require(flags == 0, flags)
        descriptor = os.memfd_create(self._file_name, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        if self._dirty:
            for start in range(0, size, self.granularity):
                os.pwrite(descriptor, b"\xff" * self.granularity, start)
        return self._new_handle(descriptor, size)

    @_driver_call
    def cuMemRelease(self, handle: Any) -> Any:
        os.close(self._allocation(handle).descriptor)
        del self.allocations[int(handle)]

    @_driver_call
    def cuMemMap(self, address: Any, size: Any, offset: Any, handle: Any, flags: Any) -> Any:
        address = int(address)
        self._check_multiple(address)
        allocation = self._allocation(handle)
        _require(size == allocation.size, "not the whole handle", size)
        _require(offset == 0 and flags == 0, offset, flags)
        inside = [
            start
            for start, reserved in self.reservations.items()
            if start <= address and address + size <= start + reserved.size
        ]
        _require(inside, "not in a reservation", address)
        _require(not self._mapped_in(address, size), "mapped already", address)
        mapping.map_file_at(address, size, allocation.descriptor, 0, populate=False)
        _protect(address, size, mapping.NONE)
        self.mappings[address] = size

    @_driver_call
    def cuMemUnmap(self, address: Any, size: Any) -> Any:
        _require(self.mappings.get(int(address)) == size, "not one whole mapping", address, size)
        self.before_unmap(int(address), size)
        mapping.block_at(int(address), size)
        del self.mappings[int(address)]

    @_driver_call
    def cuMemSetAccess(self, address: Any, size: Any, descriptions: Any, count: Any) -> Any:
        address = int(address)
        _require(isinstance(descriptions, list) and len(descriptions) == count == 1, descriptions)
        (access,) = descriptions
        _require(isinstance(access, real.CUmemAccessDesc), access)
        _require(access.location.type == _DEVICE_MEMORY, access.location.type)
        _require(access.location.id == self.device, access.location.id)
        mapped = self._mapped_in(address, size)
        whole = mapped and mapped[0] >= address and mapped[-1] + self.mappings[mapped[-1]]
        _require(
            whole == address + size and sum(self.mappings[start] for start in mapped) == size,
            "not made of whole mappings",
        )
        _protect(address, size, _PROTECTIONS[access.flags])

    @_driver_call
    def cuMemExportToShareableHandle(self, handle: Any, kind: Any, flags: Any) -> Any:
        _require(kind == _SHARED_AS and flags == 0, kind, flags)
        return os.dup(self._allocation(handle).descriptor)

    @_driver_call
    def cuMemImportFromShareableHandle(self, descriptor: Any, kind: Any) -> Any:
        _require(kind == _SHARED_AS, kind)
        _require(isinstance(descriptor, int), descriptor)
        _require(_FILE_NAME in os.readlink(f"/proc/self/fd/{descriptor}"), "no exported page")
        return self._new_handle(os.dup(descriptor), os.fstat(descriptor).st_size)

    def reserves(self, address: int) -> bool:
        """Whether an address is of this device."""
        position = bisect.bisect_right(self._starts, address) - 1
        if position < 0:
            return False
        reserved = self.reservations[self._starts[position]]
        return address < reserved.address + reserved.size

    def maps(self, address: int, size: int) -> bool:
        """Whether there is memory behind all of these bytes."""
        found = self._mapped_in(address, size)
        ends = [start + self.mappings[start] for start in found]
        whole = found and found[0] <= address and ends[-1] >= address + size
        return bool(whole) and found[1:] == ends[:-1]

    def open_files(self) -> int:
        """Descriptors of its memory files that this process has open."""
        found = 0
        for entry in os.scandir("/proc/self/fd"):
            try:
                found += os.readlink(entry.path).startswith(f"/memfd:{self._file_name} ")
            except FileNotFoundError:  # the descriptor of this listing
                continue
        return found

    def _new_handle(self, descriptor: int, size: int) -> Any:
        self._last_handle += 1
        self.allocations[self._last_handle] = Allocation(descriptor, size)
        return real.CUmemGenericAllocationHandle(self._last_handle)

    def _allocation(self, handle: Any) -> Allocation:
        _require(isinstance(handle, real.CUmemGenericAllocationHandle), handle)
        _require(int(handle) in self.allocations, "released, or never made", int(handle))
        return self.allocations[int(handle)]

    def _mapped_in(self, address: int, size: int) -> list[int]:
        """Where the mappings start that share a byte with the range, in order."""
        return sorted(
            start
            for start, length in self.mappings.items()
            if start < address + size and address < start + length
        )

    def _check_multiple(self, number: int) -> None:
        _require(number > 0 and number % self.granularity == 0, "granularity", number)

    def _check_properties(self, properties: Any) -> None:
        kind = real.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        _require(isinstance(properties, real.CUmemAllocationProp), properties)
        _require(properties.type == kind, properties.type)
        _require(properties.location.type == _DEVICE_MEMORY, properties.location.type)
        _require(properties.location.id == self.device, properties.location.id)
        _require(properties.requestedHandleTypes == _SHARED_AS, properties.requestedHandleTypes)


def view_bytes(address: int, nbytes: int, owner: object) -> torch.Tensor:
    """What CudaMemory's `view_bytes` is on a GPU."""
    buffer = (ctypes.c_char * nbytes).from_address(address)
    buffer.owner = owner
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _protect(address: int, size: int, protection: int) -> None:
    assert _libc.mprotect(address, size, protection) == 0, os.strerror(ctypes.get_errno())
