"""Device addresses with pages at places of them, and tensors over them."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from amoeba_sglang.planes.memory.base import require_view
from amoeba_sglang.planes.memory.driver import Driver
from amoeba_sglang.planes.memory.runs import find_runs

ViewBytes = Callable[[int, int, object], torch.Tensor]
"""(address, bytes, owner) -> a uint8 tensor over that device memory that keeps `owner` alive."""


@dataclass(eq=False)
class Page:
    """`handle` is the driver's, None once it is given back."""

    handle: Any


class CudaRange:
    """`size` bytes of device addresses from `address` on, given back at close() or when nothing
    refers to them.
    """

    def __init__(self, driver: Driver, size: int, view_bytes: ViewBytes) -> None:
        self.address = driver.reserve(size)
        self.size = size
        self.pages: list[Page | None] = [None] * (size // driver.page_size)
        self._driver = driver
        self._view_bytes = view_bytes
        self._parts = (driver, self.address, size, self.pages)
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

    def arrange(self, first: int, wanted: Sequence[Page | None], writable: bool) -> None:
        """Make `wanted` the pages from position `first` on.

        Stops at a MemoryFault, with `pages` true: arranging the former pages undoes it.
        """
        assert self._finalizer.alive, "the range is closed"
        changes = [
            (position, page)
            for position, page in enumerate(wanted, first)
            if self.pages[position] is not page
        ]
        for position, _ in changes:
            if self.pages[position] is not None:
                _take_out(self._driver, self.address, self.pages, position)
        size = self._driver.page_size
        for position, page in changes:
            if page is not None:
                self._driver.map(self.address + position * size, page.handle)
                self.pages[position] = page
        # Dear by the call, not by the page, so whole stretches at once.
        taken = [position for position, page in enumerate(wanted, first) if page is not None]
        for start, count in find_runs(taken):
            self._driver.allow(self.address + start * size, count, writable)


def _take_out(driver: Driver, address: int, pages: list[Page | None], position: int) -> None:
    driver.unmap(address + position * driver.page_size)
    pages[position] = None


def _dismantle(driver: Driver, address: int, size: int, pages: list[Page | None]) -> None:
    for position, page in enumerate(pages):
        if page is not None:
            _take_out(driver, address, pages, position)
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
