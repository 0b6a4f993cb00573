"""GPU memory: every page is an allocation of its own, mapped whole, created once and used again.

Not yet run on a GPU; tested through a stand-in for the driver.

Addresses never change, so captured CUDA graphs stay valid. Creating a page takes about 190 us, a
hundred times a mapping. The driver does not wait for kernels: callers synchronise the GPU before
they unmap or close what one may touch.
"""

import contextlib
import functools
import os
import resource
from collections.abc import Sequence
from types import ModuleType

from amoeba_sglang.planes.memory.base import Memory, MemoryFault, MemoryHandle
from amoeba_sglang.planes.memory.cuda_range import CudaRange, Page, ViewBytes, view_device_bytes
from amoeba_sglang.planes.memory.descriptors import BATCH, DescriptorServer, fetch_descriptors
from amoeba_sglang.planes.memory.driver import Driver, load_bindings


class CudaMemory(Memory):
    """The pages of one worker on GPU `device`, as CUDA numbers it in this process.

    `page_size`: a power of two and a multiple of the GPU's granularity (2 MiB), else ConfigError.
    This process has initialised CUDA on the GPU. `bindings` and `view_bytes` stand for the driver
    and for PyTorch: by default cuda.bindings.driver and tensors of that GPU.
    """

    def __init__(
        self,
        page_size: int,
        device: int,
        bindings: ModuleType | None = None,
        view_bytes: ViewBytes | None = None,
    ) -> None:
        self._driver = Driver(page_size, device, bindings or load_bindings())
        self.page_size = page_size
        self._view_bytes = view_bytes or functools.partial(view_device_bytes, device)
        self._pages: list[Page] = []
        self._server: DescriptorServer | None = None

    def reserve(self, size: int) -> CudaRange:
        size = -(-size // self.page_size) * self.page_size
        return CudaRange(self._driver, size, self._view_bytes)

    def create(self, count: int) -> range:
        assert count >= 0, count
        new: list[Page] = []
        try:
            for _ in range(count):
                new.append(Page(self._driver.create()))
        except MemoryFault as fault:
            with contextlib.suppress(MemoryFault):
                self._empty(new)
            raise MemoryFault(f"page {len(new) + 1} of {count}: {fault}") from fault
        first = len(self._pages)
        self._pages += new
        return range(first, len(self._pages))

    def map(
        self, where: CudaRange, offset: int, pages: Sequence[int], populate: bool = False
    ) -> None:
        first = self._position(where, offset, len(pages))
        assert all(0 <= page < len(self._pages) for page in pages), (pages, len(self._pages))
        assert len(set(pages)) == len(pages), pages
        self._change(where, first, [self._pages[page] for page in pages])

    def unmap(self, where: CudaRange, offset: int, count: int) -> None:
        self._change(where, self._position(where, offset, count), [None] * count)

    def physical_bytes(self) -> int:
        return len(self._pages) * self.page_size

    def export(self) -> MemoryHandle:
        if self._server is None:
            self._server = DescriptorServer()
        fresh = range(len(self._server.keys()), len(self._pages))
        if fresh:
            _check_descriptors(len(fresh), self.page_size)
        try:
            for number in fresh:
                self._server.add(number, self._driver.export(self._pages[number].handle))
        except MemoryFault:
            self._server.drop(fresh)
            raise
        return MemoryHandle(os.getpid(), self._server.number, self.page_size, len(self._pages))

    def open_peer(self, handle: MemoryHandle, writable: bool = False) -> CudaRange:
        assert handle.page_size == self.page_size, (handle, self.page_size)
        where = self.reserve(handle.pages * self.page_size)
        try:
            for first in range(0, handle.pages, BATCH):
                count = min(BATCH, handle.pages - first)
                found = fetch_descriptors(handle.pid, handle.descriptor, first, count)
                self._adopt(where, first, found, writable)
        except MemoryFault:
            where.close()
            raise
        return where

    def close(self) -> None:
        """See Memory.close. After a MemoryFault it may be called again for the rest."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._empty(self._pages)
        self._pages.clear()

    def _position(self, where: CudaRange, offset: int, count: int) -> int:
        size = count * self.page_size
        assert offset % self.page_size == 0, (offset, self.page_size)
        assert 0 <= offset <= where.size - size, (offset, size, where.size)
        return offset // self.page_size

    def _change(self, where: CudaRange, first: int, wanted: Sequence[Page | None]) -> None:
        before = where.pages[first : first + len(wanted)]
        try:
            where.arrange(first, wanted, writable=True)
        except MemoryFault as fault:
            try:
                where.arrange(first, before, writable=True)
            except MemoryFault as second:
                raise MemoryFault(f"{fault}; undoing it failed as well: {second}") from fault
            raise

    def _empty(self, pages: Sequence[Page]) -> None:
        """Release what the driver lets go, then raise the first MemoryFault if there was one."""
        faults = []
        for page in pages:
            if page.handle is not None:
                try:
                    self._driver.release(page.handle)
                    page.handle = None
                except MemoryFault as fault:
                    faults.append(fault)
        if faults:
            raise faults[0]

    def _adopt(
        self, where: CudaRange, first: int, descriptors: Sequence[int], writable: bool
    ) -> None:
        """Map a peer's pages from position `first` on, and close their descriptors."""
        pages: list[Page] = []
        try:
            for descriptor in descriptors:
                pages.append(Page(self._driver.open(descriptor)))
            where.arrange(first, pages, writable)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            # The mapping keeps the memory.
            self._empty(pages)


def _check_descriptors(count: int, page_size: int) -> None:
    """Raise MemoryFault unless `count` more descriptors, and those of a peer's answer, fit."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    if used + count + BATCH > limit:
        raise MemoryFault(
            f"sharing {count} pages of {page_size // 1024} KiB needs a file descriptor each, "
            f"beside {used} in use and {BATCH} to spare: more than the limit of {limit}; raise it "
            f"with `ulimit -n` (up to {most}), or use --amoeba-transport collective"
        )
