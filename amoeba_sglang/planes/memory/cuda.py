"""GPU memory: pages, and extents of many pages, are allocations that are mapped whole, created once
and used again.

Not yet run on a GPU; tested through a stand-in for the driver.

Addresses never change, so captured CUDA graphs stay valid. Creating a page takes about 190 us, a
hundred times a mapping. The driver does not wait for kernels: callers synchronise the GPU before
they unmap or close what one may touch.
"""

import contextlib
import functools
import itertools
import os
import resource
from collections.abc import Mapping, Sequence
from types import ModuleType

from amoeba_sglang.planes.memory.base import Memory, MemoryFault, MemoryHandle
from amoeba_sglang.planes.memory.cuda_range import CudaRange, Extent, ViewBytes, view_device_bytes
from amoeba_sglang.planes.memory.descriptors import BATCH, DescriptorServer, fetch_descriptors
from amoeba_sglang.planes.memory.driver import Driver, load_bindings


class CudaMemory(Memory):
    """The pages of one worker on GPU `device`, as CUDA numbers it in this process.

    zeroed: False, the driver leaves in them what was there.

    `page_size`: a power of two and a multiple of the GPU's granularity (2 MiB), else ConfigError.
    This process has initialised CUDA on the GPU. `bindings` and `view_bytes` stand for the driver
    and for PyTorch: by default cuda.bindings.driver and tensors of that GPU.
    """

    zeroed = False

    def __init__(
        self,
        page_size: int,
        device: int,
        bindings: ModuleType | None = None,
        view_bytes: ViewBytes | None = None,
    ) -> None:
        self._driver = Driver(page_size, device, bindings or load_bindings())
        self.page_size, self.smallest_page = page_size, self._driver.smallest_page
        self._view_bytes = view_bytes or functools.partial(view_device_bytes, device)
        self._extents: list[Extent] = []
        # By page id, the extent that it is a part of.
        self._pages: list[Extent] = []
        self._server: DescriptorServer | None = None

    def reserve(self, size: int) -> CudaRange:
        size = -(-size // self.page_size) * self.page_size
        return CudaRange(self._driver, size, self._view_bytes)

    def create(self, count: int, as_extent: bool = False) -> range:
        assert count >= 0, count
        sizes = [count] if as_extent and count else [1] * count
        new: list[Extent] = []
        try:
            for size in sizes:
                new.append(Extent(self._driver.create(size), size))
        except MemoryFault as fault:
            with contextlib.suppress(MemoryFault):
                self._empty(new)
            raise MemoryFault(f"page {len(new) + 1} of {count}: {fault}") from fault
        first = len(self._pages)
        self._extents += new
        self._pages += [extent for extent in new for _ in range(extent.count)]
        return range(first, len(self._pages))

    def map(
        self, where: CudaRange, offset: int, pages: Sequence[int], populate: bool = False
    ) -> None:
        first = self._position(where, offset, len(pages))
        assert all(0 <= page < len(self._pages) for page in pages), (pages, len(self._pages))
        assert len(set(pages)) == len(pages), pages
        extents = [self._pages[page] for page in pages]
        for page, after in itertools.pairwise(pages):
            same = self._pages[page] is self._pages[after]
            assert after == page + 1 or not same, "pages of an extent in another order"
        self._change(where, first, extents)

    def unmap(self, where: CudaRange, offset: int, count: int) -> None:
        self._change(where, self._position(where, offset, count), [None] * count)

    def physical_bytes(self) -> int:
        return len(self._pages) * self.page_size

    def export(self) -> MemoryHandle:
        if self._server is None:
            self._server = DescriptorServer()
        fresh = range(len(self._server.keys()), len(self._extents))
        if fresh:
            _check_descriptors(len(fresh), self.page_size)
        try:
            for number in fresh:
                self._server.add(number, self._driver.export(self._extents[number].handle))
        except MemoryFault:
            self._server.drop(fresh)
            raise
        sizes = [extent.count for extent in self._extents]
        starts = itertools.accumulate(sizes, initial=0)
        large = tuple((at, size) for at, size in zip(starts, sizes, strict=False) if size > 1)
        return MemoryHandle(
            os.getpid(), self._server.number, self.page_size, len(self._pages), extents=large
        )

    def open_peer(self, handle: MemoryHandle, writable: bool = False) -> CudaRange:
        assert handle.page_size == self.page_size, (handle, self.page_size)
        where = self.reserve(handle.pages * self.page_size)
        sizes = _extent_sizes(handle)
        try:
            at = 0
            for first in range(0, len(sizes), BATCH):
                batch = sizes[first : first + BATCH]
                found = fetch_descriptors(handle.pid, handle.descriptor, first, len(batch))
                self._adopt(where, at, dict(zip(found, batch, strict=True)), writable)
                at += sum(batch)
        except MemoryFault:
            where.close()
            raise
        return where

    def close(self) -> None:
        """See Memory.close. After a MemoryFault it may be called again for the rest."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._empty(self._extents)
        self._extents.clear()
        self._pages.clear()

    def _position(self, where: CudaRange, offset: int, count: int) -> int:
        size = count * self.page_size
        assert offset % self.page_size == 0, (offset, self.page_size)
        assert 0 <= offset <= where.size - size, (offset, size, where.size)
        return offset // self.page_size

    def _change(self, where: CudaRange, first: int, wanted: Sequence[Extent | None]) -> None:
        before = where.extents[first : first + len(wanted)]
        try:
            where.arrange(first, wanted, writable=True)
        except MemoryFault as fault:
            try:
                where.arrange(first, before, writable=True)
            except MemoryFault as second:
                raise MemoryFault(f"{fault}; undoing it failed as well: {second}") from fault
            raise

    def _empty(self, extents: Sequence[Extent]) -> None:
        """Release what the driver lets go, then raise the first MemoryFault if there was one."""
        faults = []
        for extent in extents:
            if extent.handle is not None:
                try:
                    self._driver.release(extent.handle)
                    extent.handle = None
                except MemoryFault as fault:
                    faults.append(fault)
        if faults:
            raise faults[0]

    def _adopt(
        self, where: CudaRange, first: int, descriptors: Mapping[int, int], writable: bool
    ) -> None:
        """Map a peer's extents from position `first` on, and close their descriptors, by which
        their pages are counted."""
        extents: list[Extent] = []
        try:
            for descriptor, count in descriptors.items():
                extents.append(Extent(self._driver.open(descriptor), count))
            where.arrange(first, [one for one in extents for _ in range(one.count)], writable)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            # The mapping keeps the memory.
            self._empty(extents)


def _extent_sizes(handle: MemoryHandle) -> list[int]:
    """Pages of each allocation of a peer, in page order."""
    sizes, at = [], 0
    for first, count in handle.extents:
        sizes += [1] * (first - at) + [count]
        at = first + count
    return sizes + [1] * (handle.pages - at)


def _check_descriptors(count: int, page_size: int) -> None:
    """Raise MemoryFault unless `count` more descriptors, and those of a peer's answer, fit."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    if used + count + BATCH > limit:
        raise MemoryFault(
            f"sharing {count} pages of {page_size // 1024} KiB, or ranges of KV, needs a file "
            f"descriptor each, "
            f"beside {used} in use and {BATCH} to spare: more than the limit of {limit}; raise it "
            f"with `ulimit -n` (up to {most}), or use --amoeba-transport collective"
        )
