"""Check `driver`: does the driver do what the memory of the CUDA plane asks of it, and how fast.

The contract first, in this process and between two that share the GPU; then the seconds of each
call by page size and number of pages, which decide the default page size.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from amoeba_sglang.planes.memory.base import AddressRange, Memory, MemoryHandle
from bench.gpu_check.device import Device
from bench.gpu_check.workers import Group, Workers

MIB = 1 << 20
_PAGE = 2 * MIB
_ROUNDS = 5


def check(
    device: Device,
    page_sizes: Sequence[int] = (2 * MIB, 8 * MIB, 32 * MIB),
    counts: Sequence[int] = (1, 16, 128),
) -> dict[str, Any]:
    """Figures of `page_sizes` bytes and `counts` pages; AssertionError or MemoryFault if the driver
    does something else than it should."""
    for step in (_keep_bytes, _move_extents, _share, _outlive):
        step(device)
    if not device.figures:
        page_sizes, counts = page_sizes[:1], counts[:1]
    times = {
        f"{size // MIB} MiB": {count: _time_calls(device, size, count) for count in counts}
        for size in page_sizes
    }
    return {"contract": "as asked for", "us_a_page": times if device.figures else "withheld"}


# The contract


def _view(where: AddressRange, position: int) -> torch.Tensor:
    return where.tensor(position * _PAGE, (_PAGE // 4,), torch.int32)


def _expect(device: Device, where: AddressRange, values: dict[int, int]) -> None:
    """Every word of the pages at these positions has this value."""
    device.synchronize()
    for position, value in values.items():
        view = _view(where, position)
        assert bool((view == value).all()), f"position {position}: {view[0].item()}, not {value}"


def _fill(device: Device, where: AddressRange, values: dict[int, int]) -> None:
    for position, value in values.items():
        _view(where, position).fill_(value)
    device.synchronize()


@contextmanager
def _room(device: Device, pages: int) -> Iterator[tuple[Memory, AddressRange]]:
    """A memory and a range of so many pages of it, given back whatever a check finds."""
    memory = device.memory(_PAGE)
    where = memory.reserve(pages * _PAGE)
    try:
        yield memory, where
    finally:
        where.close()
        memory.close()


def _keep_bytes(device: Device) -> None:
    """Pages keep what is in them wherever they are mapped, and while they are not."""
    with _room(device, 8) as (memory, where):
        pages = memory.create(4)
        memory.map(where, 0, pages)
        _fill(device, where, {0: 10, 1: 11, 2: 12, 3: 13})
        memory.unmap(where, _PAGE, 2)
        _expect(device, where, {0: 10, 3: 13})
        memory.map(where, 5 * _PAGE, [pages[2], pages[1]])
        _expect(device, where, {0: 10, 3: 13, 5: 12, 6: 11})
        memory.unmap(where, 5 * _PAGE, 2)
        memory.map(where, _PAGE, pages[1:3])
        _expect(device, where, {0: 10, 1: 11, 2: 12, 3: 13})


def _move_extents(device: Device) -> None:
    """An extent goes from place to place whole, beside pages."""
    with _room(device, 8) as (memory, where):
        extent, pages = memory.create(3, as_extent=True), memory.create(2)
        memory.map(where, 0, extent)
        memory.map(where, 3 * _PAGE, pages)
        _fill(device, where, {0: 1, 2: 3, 3: 4, 4: 5})
        memory.unmap(where, 0, 3)
        memory.map(where, 5 * _PAGE, extent)
        _expect(device, where, {5: 1, 7: 3, 3: 4, 4: 5})


def _share(device: Device) -> None:
    """A peer process reads and writes our pages, extents among them, in the order of their ids."""
    with _room(device, 6) as (memory, where):
        for at, count, as_extent in ((0, 2, False), (2, 3, True), (5, 1, False)):
            memory.map(where, at * _PAGE, memory.create(count, as_extent=as_extent))
        _fill(device, where, {position: 20 + position for position in range(6)})
        with Workers(1, _Peer, device, memory.export(), True) as peer:
            peer.ask("expect", {position: 20 + position for position in range(6)})
            peer.ask("fill", {1: 31, 3: 33})
            _expect(device, where, {0: 20, 1: 31, 2: 22, 3: 33, 4: 24, 5: 25})


def _outlive(device: Device) -> None:
    """A peer still has pages that their owner has dropped."""
    with _room(device, 2) as (memory, where):
        memory.map(where, 0, memory.create(2))
        _fill(device, where, {0: 40, 1: 41})
        with Workers(1, _Peer, device, memory.export(), False) as peer:
            peer.ask("expect", {0: 40, 1: 41})
            where.close()
            memory.close()
            peer.ask("expect", {0: 40, 1: 41})


class _Peer:
    """In a process of its own: it has opened the memory of the one that checks."""

    def __init__(self, group: Group, device: Device, handle: MemoryHandle, writable: bool) -> None:
        device.open()
        self._device = device
        self._where = device.memory(_PAGE).open_peer(handle, writable)

    def expect(self, values: dict[int, int]) -> None:
        _expect(self._device, self._where, values)

    def fill(self, values: dict[int, int]) -> None:
        _fill(self._device, self._where, values)


# Seconds


def _time_calls(device: Device, page_size: int, count: int) -> dict[str, float]:
    """Median microseconds a page of each call, for `count` pages at a time."""
    found: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = act()
        found.setdefault(name, []).append(1e6 * (time.perf_counter() - started) / count)
        return result

    for _ in range(_ROUNDS):
        memory = device.memory(page_size)
        where = memory.reserve(count * page_size)
        pages = timed("create", lambda memory=memory: memory.create(count))
        timed("map", lambda m=memory, w=where, p=pages: m.map(w, 0, p))
        handle = timed("export", lambda memory=memory: memory.export())
        _time_peer(timed, memory, handle)
        timed("unmap", lambda m=memory, w=where: m.unmap(w, 0, count))
        where.close()
        timed("release", memory.close)
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


def _time_peer(timed: Callable[..., Any], memory: Memory, handle: MemoryHandle) -> None:
    """Opens them here: the calls are those of another process."""
    peer = timed("open", lambda: memory.open_peer(handle))
    timed("close", peer.close)
