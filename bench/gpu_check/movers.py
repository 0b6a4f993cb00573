"""Check `movers`: workers that share one GPU move the KV of a block by the kernel, bit for bit.

N processes have a pool each and map those of the others, as on N GPUs. They walk through every
change of layout; after each every live unit must be where the layout says. Then GB/s of a merge of
all beside those of a plain copy of as many bytes.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.kernels.device_mover import DeviceKVMover
from amoeba_sglang.planes.memory.base import MemoryHandle
from amoeba_sglang.planes.pages.ranges import KVRanges
from bench.gpu_check.device import Device
from bench.gpu_check.workers import Group, Shape, Workers, open_peers

# 16 tokens of 2 heads of 128 values of 2 bytes: a quarter of 8 heads.
LARGE = Shape(layers=16, slots=4096, unit_bytes=8192, page_bytes=2 << 20)
SMALL = Shape(layers=2, slots=6, unit_bytes=64, page_bytes=2 << 20)
_ROUNDS = 5


def check(device: Device, sizes: Sequence[int] = (2, 4)) -> dict[str, Any]:
    """Figures by number of workers; AssertionError if a unit is not where it should be."""
    shape = LARGE if device.figures else SMALL
    found = {}
    for count in sizes:
        chain = DegreeChain(tuple(2**n for n in range(count.bit_length())))
        with Workers(count, Pool, device, chain, shape) as workers:
            workers.ask("meet", workers.ask("export"))
            steps = _walk(workers, chain, count, shape)
            rate = _time(workers, count, shape) if device.figures else "withheld"
        found[f"N={count}"] = {"changes": steps, "bits": "as they were", "gb_s": rate}
    return found


def _walk(workers: Workers, chain: DegreeChain, count: int, shape: Shape) -> int:
    """Go through a change of every kind, with other slots alive at each; how many there were."""
    rng, steps = np.random.default_rng(3), 0
    layout = Layout.uniform(count, 1)
    for number in range(4 * count):
        live = [_some(rng, shape.slots) for _ in range(count)]
        every = range(count)
        degrees = [degree for ranks, degree in layout.orders(chain) if ranks == every]
        after = layout.change(chain, every, degrees[number % len(degrees)])
        workers.ask("fill", layout.degrees, live)
        workers.ask("move", layout.degrees, after.degrees, live)
        workers.ask("expect", after.degrees, live)
        layout, steps = after, steps + 1
    return steps


def _some(rng: np.random.Generator, slots: int) -> np.ndarray:
    return np.flatnonzero(np.append(False, rng.random(slots) < 0.7))


def _time(workers: Workers, count: int, shape: Shape) -> dict[str, float]:
    """GB/s that arrive at one worker in a merge of all, and of a plain copy of as many bytes."""
    every = [np.arange(1, shape.slots + 1)] * count
    apart, together = (1,) * count, (count,) * count
    seconds, copies = [], []
    for _ in range(_ROUNDS):
        found = workers.ask("move", apart, together, every)
        seconds.append(max(each["seconds"] for each in found))
        received = found[0]["received"]
        workers.ask("move", together, apart, every)
        copies.append(max(each["seconds"] for each in workers.ask("copy", received)))
    return {
        "mover": round(received / min(seconds[1:]) / 1e9, 1),
        "plain copy": round(received / min(copies[1:]) / 1e9, 1),
    }


# In a worker


class Pool:
    """One worker's pool and mover."""

    def __init__(self, group: Group, device: Device, chain: DegreeChain, shape: Shape) -> None:
        device.open()
        self._group, self._device, self._chain, self._shape = group, device, chain, shape
        self._memory = device.memory(shape.page_bytes)
        row_bytes = chain.finest * shape.unit_bytes
        rows = shape.slots + 1
        self._ranges = KVRanges(self._memory, shape.layers, rows, row_bytes, most_grown=0)
        self._view = (rows, chain.finest, shape.unit_bytes // 4)
        self.tensors = [
            self._ranges.layer(layer, self._view, torch.int32) for layer in range(shape.layers)
        ]

    def export(self) -> MemoryHandle:
        return self._memory.export()

    def meet(self, handles: Sequence[MemoryHandle]) -> None:
        """Open the memory of the others, by rank, and have a mover."""
        self._opened = open_peers(self._group, self._memory, handles, writable=True)
        blocks = [
            self._ranges.peer_layers(self._opened[i], handles[i], self._view, torch.int32)
            if i in self._opened
            else self.tensors
            for i in range(self._group.size)
        ]
        self._mover = DeviceKVMover.over(
            blocks, self._group, finest=self._chain.finest, device=self.tensors[0][0].device,
            settle=self._device.synchronize,
        )  # fmt: skip

    def _units(self, degrees: Sequence[int], live: Sequence[np.ndarray]) -> Any:
        """(half of a layer, slots, place, what is there) of the live units that are here."""
        for home, slots in enumerate(live):
            for unit in range(self._chain.finest):
                holder, place = self._chain.place(degrees[home], home, unit)
                if holder != self._group.rank:
                    continue
                for number, half in enumerate(half for pair in self.tensors for half in pair):
                    at = torch.from_numpy(slots).to(half.device)
                    marks = (at * 64 + unit) * 1000 + number * 16 + home
                    yield half, at, place, marks.to(torch.int32)

    def fill(self, degrees: Sequence[int], live: Sequence[np.ndarray]) -> None:
        for half, slots, place, marks in self._units(degrees, live):
            half[slots, place] = marks[:, None].expand(-1, half.shape[2])
        self._device.synchronize()

    def expect(self, degrees: Sequence[int], live: Sequence[np.ndarray]) -> None:
        for half, slots, place, marks in self._units(degrees, live):
            wrong = (half[slots, place] != marks[:, None]).any(dim=1)
            assert not bool(wrong.any()), (
                f"worker {self._group.rank}: {int(wrong.sum())} of {len(slots)} units at place "
                f"{place} of layout {tuple(degrees)} are others"
            )

    def move(
        self, before: tuple[int, ...], after: tuple[int, ...], live: Sequence[np.ndarray]
    ) -> dict[str, float]:
        started = time.perf_counter()
        moves = unit_moves(self._chain, before, after)
        received = self._mover.move(range(self._shape.layers), moves, live)
        return {"seconds": time.perf_counter() - started, "received": received}

    def copy(self, nbytes: int) -> dict[str, float]:
        """Bytes from one half of the pool to the other; in rounds, if they do not fit at once."""
        halves = [half.reshape(-1).view(torch.uint8) for pair in self.tensors for half in pair]
        self._device.synchronize()
        started = time.perf_counter()
        for number in range(0, -(-nbytes // halves[0].numel())):
            left = min(nbytes - number * halves[0].numel(), halves[0].numel())
            source, target = halves[number % len(halves)], halves[(number + 1) % len(halves)]
            target[:left].copy_(source[:left])
        self._device.synchronize()
        return {"seconds": time.perf_counter() - started}

    def close(self) -> None:
        """Give the peers' memory back, and this one's."""
        for opened in self._opened.values():
            opened.close()
        self._memory.close()
