"""The memory interface: address ranges on one side, physical pages on the other.

    reserve   an address range; it costs no memory and faults when touched
    create    physical pages, numbered 0, 1, 2, .. for the life of the memory
    map       pages behind a part of a reservation
    unmap     take them away from it; their bytes stay
    export    a handle, with which a peer process opens these pages at addresses of its own

A page is mapped in at most one reservation of its owner at a time; the callers keep that rule.
Nothing here synchronises processes: who may touch which page when is agreed elsewhere.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from amoeba_sglang.errors import AmoebaError


class MemoryFault(AmoebaError):
    """The system refused a memory operation; the text names the limit and what to change."""


def require_view(size: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a tensor at `offset` of a range of `size` bytes, in which it must lie."""
    count = math.prod(shape)
    assert count > 0, f"no tensor of shape {tuple(shape)} over raw memory"
    nbytes = count * dtype.itemsize
    assert 0 <= offset <= size - nbytes, (offset, nbytes, size)
    return nbytes


class AddressRange(Protocol):
    """Something with addresses: a reservation, or a peer's pages."""

    size: int
    """Bytes."""

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous view that starts `offset` bytes into the range.

        The view keeps the range alive, not its pages: touching it where nothing is mapped, or after
        close(), kills the process.
        """

    def close(self) -> None:
        """Give the addresses back; no view may be used afterwards. Again: does nothing."""


@dataclass(frozen=True)
class MemoryHandle:
    """Names one process's pages to its peers; plain integers, so any message can carry it.

    `pid` and `descriptor` say where to open them (a file of that process, or a socket of it that
    gives files away), `pages` of `page_size` bytes exist at the time of the export. `extents`:
    (first page, count) of those that were created as extents, where that makes a difference.
    """

    pid: int
    descriptor: int
    page_size: int
    pages: int
    extents: tuple[tuple[int, int], ...] = ()


class Memory(ABC):
    """Physical pages of one worker and where it maps them. Sizes and offsets are bytes."""

    page_size: int
    smallest_page: int
    """Bytes of the smallest page that the machine has."""
    zeroed = True
    """Whether new pages are all zeros. Otherwise a use of theirs in which some bytes are read and
    have no effect, as attention does, must clear them: they may be NaNs, which have."""

    @abstractmethod
    def reserve(self, size: int) -> AddressRange:
        """Reserve `size` bytes (rounded up to pages), aligned to the page size."""

    @abstractmethod
    def create(self, count: int, as_extent: bool = False) -> range:
        """Create `count` pages and return their ids. Memory of a GPU is charged now, of a host when
        a page is first touched.

        `as_extent`: they are only ever mapped and unmapped all together, in this order. A GPU needs
        one allocation for them then, in place of one for each.
        """

    @abstractmethod
    def map(
        self, where: AddressRange, offset: int, pages: Sequence[int], populate: bool = False
    ) -> None:
        """Map `pages`, in this order, from `offset` on; replaces what was mapped there.

        `populate` touches all pages now, which is faster than faults one by one. Pages with
        consecutive ids share one mapping; a process has a limited number of those (MemoryFault).
        """

    @abstractmethod
    def unmap(self, where: AddressRange, offset: int, count: int) -> None:
        """Take `count` pages from `offset` on out of the range; the range stays reserved, the bytes
        stay.
        """

    def refusal(self, pages: Sequence[int]) -> str | None:
        """Why this process cannot map `pages`, in this order, beside what it has; None if it can.

        To be asked before the first unmap of a change.
        """
        return None

    @abstractmethod
    def physical_bytes(self) -> int:
        """Bytes of machine memory that the pages hold now, mapped or not."""

    @abstractmethod
    def export(self) -> MemoryHandle:
        """A handle of all pages created so far."""

    @abstractmethod
    def open_peer(self, handle: MemoryHandle, writable: bool = False) -> AddressRange:
        """Map all pages of a peer in id order: page i starts at offset i * page_size."""

    @abstractmethod
    def close(self) -> None:
        """Drop the pages. Ranges that are still mapped here or at peers keep theirs until they are
        closed.
        """
