"""Device addresses with extents of pages at places of them, and tensors over them."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from amoeba_sglang.planes.memory.base import require_view
from amoeba_sglang.planes.memory.driver import Driver
from amoeba_sglang.planes.memory.runs import find_runs

ViewBytes = Callable[[int, int, object], torch.Tensor]
"""(address, bytes, owner) -> a uint8 tensor over that device memory that keeps `owner` alive."""


@dataclass(eq=False)
class Extent:
    """One allocation, of `count` pages. `handle` is the driver's, None once it is given back."""

    handle: Any
    count: int = 1


class CudaRange:
    """`size` bytes of device addresses from `address` on, given back at close() or when nothing
    refers to them.

    `extents`: by page position what is mapped there; one of n pages is at n positions in a row.
    """

    def __init__(self, driver: Driver, size: int, view_bytes: ViewBytes) -> None:
        self.address = driver.reserve(size)
        self.size = size
        self.extents: list[Extent | None] = [None] * (size // driver.page_size)
        self._driver = driver
        self._view_bytes = view_bytes
        self._parts = (driver, self.address, size, self.extents)
        # At exit other threads may still use the views, and the system frees everything anyway.
        self._finalizer = weakref.finalize(self, _dismantle, *self._parts)
        self._finalizer.atexit = False

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See AddressRange.tensor."""
        assert self._finalizer.alive, "the range is closed"
        nbytes = require_view(self.size, offset, shape, dtype)
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            content = self._view_bytes(self.address + offset, nbytes, self)
            return content.view(dtype).view(tuple(shape))

    def close(self) -> None:
        """See AddressRange.close. After a MemoryFault it may be called again for the rest."""
        if self._finalizer.alive:
            _dismantle(*self._parts)
            self._finalizer.detach()

    def arrange(self, first: int, wanted: Sequence[Extent | None], writable: bool) -> None:
        """Make `wanted` the extents from position `first` on; each is there whole or not at all.

        Stops at a MemoryFault, with `extents` true: arranging the former ones undoes it.
        """
        assert self._finalizer.alive, "the range is closed"
        present = self.extents[first : first + len(wanted)]
        for start, extent in _whole_extents(present, first):
            if any(wanted[at - first] is not extent for at in range(start, start + extent.count)):
                _take_out(self._driver, self.address, self.extents, start)
        size = self._driver.page_size
        for start, extent in _whole_extents(wanted, first):
            if self.extents[start] is not extent:
                self._driver.map(self.address + start * size, extent.count, extent.handle)
                self.extents[start : start + extent.count] = [extent] * extent.count
        # Dear by the call, not by the page, so whole stretches at once.
        taken = [position for position, extent in enumerate(wanted, first) if extent is not None]
        for start, count in find_runs(taken):
            self._driver.allow(self.address + start * size, count, writable)


def _whole_extents(extents: Sequence[Extent | None], first: int) -> Iterator[tuple[int, Extent]]:
    """(position, extent) of each of them, the positions counted from `first`."""
    at = 0
    while at < len(extents):
        extent = extents[at]
        if extent is None:
            at += 1
            continue
        found = extents[at : at + extent.count]
        assert found == [extent] * extent.count, f"a part of an extent of {extent.count} pages"
        yield first + at, extent
        at += extent.count


def _take_out(driver: Driver, address: int, extents: list[Extent | None], start: int) -> None:
    extent = extents[start]
    assert extent is not None
    driver.unmap(address + start * driver.page_size, extent.count)
    extents[start : start + extent.count] = [None] * extent.count


def _dismantle(driver: Driver, address: int, size: int, extents: list[Extent | None]) -> None:
    for start, _ in _whole_extents(list(extents), 0):
        _take_out(driver, address, extents, start)
    driver.free(address, size)


def view_device_bytes(device: int, address: int, nbytes: int, owner: object) -> torch.Tensor:
    """The ViewBytes of GPU `device`."""
    # With the device named, PyTorch does not ask the driver about an address nothing is mapped at.
    return torch.as_tensor(_DeviceBytes(address, nbytes, owner), device=f"cuda:{device}")


class _DeviceBytes:
    """The interface by which PyTorch takes foreign device memory; the tensor keeps this object."""

    def __init__(self, address: int, nbytes: int, owner: object) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }
