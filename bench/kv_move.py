"""Moving live KV between degrees: peer and collective movers and "Basic" beside a plain copy.

`python -m bench.kv_move` prints a table and writes bench/results/kv_move.json. With slots of one
token and of 16 (`--page-size`), which hold the same tokens. "Basic" is that of arXiv 2509.19729:
allocate a second pool, copy the live tokens into it, free the first. All workers of a block move at
once; the plain copy is as large and also runs on all of them at once. Memory is what a worker takes
at most beyond what it had; the movers' staging buffer they have had from the start.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.planes.kv.collective_mover import CollectiveKVMover
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.memory.mapping import return_freed_memory
from amoeba_sglang.planes.transport import HostGroup
from bench import results_file
from bench.footprint import Peak
from bench.transform_ways import move_to_second_pool
from tests.processes import run_workers

_LAYERS, _HEADS, _HEAD_DIM, _TOKENS = 30, 4, 64, 8192
_STAGING_MIB = 8
_PAGES = (1, 16)
_CHANGES = {2: [(1, 2)], 4: [(1, 2), (1, 4), (2, 4)]}
_LIVE = {"2048 scattered": (2048, 4096), "4096 scattered": (4096, 8192), "2048 dense": (2048, 2048)}
"""Live tokens of a worker, and the number of tokens whose slots they are scattered over."""
_WAYS = ("plain", "peer", "collective", "basic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    figures = {}
    head = "".join(f"{way} ms".rjust(14) for way in _WAYS)
    print(f"{'':52}{'MB received':>12}{head}  peer/plain  extra MiB peer, basic")
    for n, page in itertools.product(_CHANGES, _PAGES):
        by_rank = run_workers(n, _measure, page, rounds, timeout_s=1800.0)
        for case in by_rank[0]:
            # A move is over when its slowest worker is.
            rows = [worker[case] for worker in by_rank]
            name, figure = f"{n} workers, {case}", _summarise(rows)
            figures[name] = figure
            cells = "".join(
                f"{min(ms):7.1f} ({np.median(ms):.0f})".rjust(14)
                for ms in (_slowest(rows, way) for way in _WAYS)
            )
            peaks = figure["peak_extra_mib"]
            print(
                f"{name:52}{figure['mb_received_per_worker']:12.1f}{cells}"
                f"{figure['peer_rate_of_plain_copy_best']:12.2f}"
                f"{peaks['peer']:12.2f}{peaks['basic']:10.2f}",
                flush=True,
            )
    results_file.write("kv_move", {"rounds": rounds, **figures})


def _slowest(rows: list[dict[str, Any]], way: str) -> list[float]:
    """Milliseconds of every round."""
    return (1e3 * np.max([row[way] for row in rows], axis=0)).tolist()


def _summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ms = {way: _slowest(rows, way) for way in _WAYS}
    return {
        "mb_received_per_worker": float(np.mean([row["megabytes"] for row in rows])),
        **{f"{way}_ms": results_file.spread(values) for way, values in ms.items()},
        "peer_rate_of_plain_copy_best": min(ms["plain"]) / min(ms["peer"]),
        "peak_extra_mib": {
            way: max(row["peaks"][way] for row in rows) / 2**20 for way in rows[0]["peaks"]
        },
    }


@dataclass(frozen=True)
class _Pools:
    """Of this worker, by layer [2, slots, heads, page, dim] fp32 in host memory, and the peers'."""

    memory: HostMemory
    own: list[torch.Tensor]
    peers: list[list[torch.Tensor] | None]

    @classmethod
    def make(cls, rank: int, n: int, page: int) -> _Pools:
        memory = HostMemory(64 << 10)
        shape = (_LAYERS, 2, _TOKENS // page + 1, _HEADS, page, _HEAD_DIM)
        where = memory.reserve(torch.Size(shape).numel() * 4)
        memory.map(where, 0, memory.create(where.size // memory.page_size))
        own = where.tensor(0, shape, torch.float32)
        own.normal_(generator=torch.Generator().manual_seed(rank))
        handles: list = [None] * n
        dist.all_gather_object(handles, memory.export())
        ranges = [
            None if r == rank else memory.open_peer(handles[r], writable=True) for r in range(n)
        ]
        peers = [None if r is None else list(r.tensor(0, shape, torch.float32)) for r in ranges]
        return cls(memory, list(own), peers)


def _measure(rank: int, n: int, page: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of every round of this worker, and memory, by case and way."""
    chain = DegreeChain((1, 2) if n == 2 else (1, 2, 4))
    pools, found = _Pools.make(rank, n, page), {}
    ways = _Ways(pools, chain, HostGroup.create(dist.group.WORLD))
    for low, high in _CHANGES[n]:
        for name, (count, width) in _LIVE.items():
            ways.live = [_slots(home, count // page, width // page) for home in range(n)]
            ways.there = unit_moves(chain, (low,) * n, (high,) * n)
            ways.back = unit_moves(chain, (high,) * n, (low,) * n)
            mine = torch.from_numpy(ways.live[rank])
            kept = [layer[:, mine] for layer in pools.own]
            found[f"{low} -> {high} -> {low}, page {page}, {name}"] = ways.measure(rounds)
            # At degree 1 a live slot is all its own units; at 2 it also holds dead ones.
            now = [layer[:, mine] for layer in pools.own]
            assert low > 1 or all(map(torch.equal, now, kept)), "live KV changed"
    return found


class _Ways:
    """The ways to move the KV of one pair of layouts, `there` and `back`, of `live` slots."""

    def __init__(self, pools: _Pools, chain: DegreeChain, group: HostGroup) -> None:
        own = UnitBuffers(pools.own, chain.finest)
        peers = [None if peer is None else UnitBuffers(peer, chain.finest) for peer in pools.peers]
        staging, layers = _STAGING_MIB << 20, range(_LAYERS)
        movers = {
            "peer": PeerKVMover(own, peers, group, staging),
            "collective": CollectiveKVMover(own, dist.group.WORLD, staging),
        }
        self._memory, self._group = pools.memory, group
        self.ways: dict[str, Callable[[tuple], object]] = {
            way: lambda moves, mover=mover: mover.move(layers, moves, self.live)
            for way, mover in movers.items()
        }
        self.ways["basic"] = lambda moves: move_to_second_pool(
            pools.own, peers, chain.finest, moves, self.live
        )
        self.live: list[np.ndarray] = []
        self.there: tuple = ()
        self.back: tuple = ()

    def measure(self, rounds: int) -> dict[str, Any]:
        """Seconds by way, bytes received, and peaks of memory."""
        received = self.ways["peer"](self.there)
        self.ways["peer"](self.back)
        source = torch.ones(received, dtype=torch.uint8)
        target = torch.zeros_like(source)
        seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
        # The ways alternate, so that a drift of the machine favours none.
        for _ in range(rounds):
            seconds["plain"].append(self._time(lambda _: target.copy_(source), ()))
            for way, move in self.ways.items():
                seconds[way] += [self._time(move, moves) for moves in self._walk(way)]
            seconds["plain"].append(self._time(lambda _: target.copy_(source), ()))
        peaks = {way: self._peak(way) for way in self.ways}
        return {"megabytes": received / 1e6, "peaks": peaks, **seconds}

    def _walk(self, way: str) -> tuple[tuple, tuple]:
        # Basic leaves the first pool as it was, and so always goes there.
        return (self.there, self.there if way == "basic" else self.back)

    def _time(self, work: Callable[[tuple], object], moves: tuple) -> float:
        self._group.barrier()
        start = time.perf_counter()
        work(moves)
        self._group.barrier()
        return time.perf_counter() - start

    def _peak(self, way: str) -> int:
        # The heap keeps what earlier second pools have freed.
        return_freed_memory()
        with Peak(self._memory) as peak:
            for moves in self._walk(way):
                self._time(self.ways[way], moves)
        return peak.extra


def _slots(home: int, count: int, width: int) -> np.ndarray:
    return np.sort(np.random.default_rng(home).permutation(width)[:count] + 1)


if __name__ == "__main__":
    main()
