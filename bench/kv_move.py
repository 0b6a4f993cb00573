"""Rate of moving live KV between degrees: peer and collective movers beside a plain copy.

`python -m bench.kv_move` prints a table and writes bench/results/kv_move.json. All workers of a
block move at once; the plain copy is as large and also runs on all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.kv.mover import CollectiveKVMover, KVMover, PeerKVMover
from amoeba_sglang.kv.units import UnitBuffers
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.memory.host import HostMemory
from amoeba_sglang.plan.moves import unit_moves
from amoeba_sglang.transport import HostGroup
from bench import results_file
from tests.processes import run_workers

_LAYERS, _HEADS, _HEAD_DIM, _SLOTS = 30, 4, 64, 8192
_STAGING_MIB = 8
_ROUNDS = 8
_CHANGES = {2: [(1, 2)], 4: [(1, 2), (1, 4), (2, 4)]}
_LIVE = {"2048 scattered": (2048, 4096), "4096 scattered": (4096, 8192), "2048 dense": (2048, 2048)}
"""Live tokens of a worker, and the number of slots that they are scattered over."""


def main() -> None:
    figures = {}
    print(f"{'':44}{'MB received':>12}{'plain copy':>14}{'peer':>14}{'collective':>14}  peer/plain")
    for n in _CHANGES:
        by_rank = run_workers(n, _measure, timeout_s=900.0)
        for case in by_rank[0]:
            # A move is over when its slowest worker is.
            rows = [worker[case] for worker in by_rank]
            seconds = {
                way: np.max([row[way] for row in rows], axis=0).tolist()
                for way in ("plain", "peer", "collective")
            }
            megabytes = float(np.mean([row["megabytes"] for row in rows]))
            best = {way: min(values) for way, values in seconds.items()}
            figures[f"{n} workers, {case}"] = {
                "mb_received_per_worker": megabytes,
                **{
                    f"{way}_ms": results_file.spread([s * 1e3 for s in values])
                    for way, values in seconds.items()
                },
                "peer_rate_of_plain_copy_best": best["plain"] / best["peer"],
            }
            cells = "".join(
                f"{best[way] * 1e3:7.1f} ({np.median(seconds[way]) * 1e3:.0f})".rjust(14)
                for way in seconds
            )
            ratio = best["plain"] / best["peer"]
            print(f"{n} workers, {case:33}{megabytes:12.1f}{cells}  {ratio:.2f}", flush=True)
    results_file.write("kv_move", figures)


def _measure(rank: int, n: int) -> dict[str, dict]:
    """Seconds of every round of this worker, by case and way."""
    chain = DegreeChain((1, 2) if n == 2 else (1, 2, 4))
    pool, peers = _pools(rank, n)
    own = UnitBuffers(pool, chain.finest)
    others = [None if peer is None else UnitBuffers(peer, chain.finest) for peer in peers]
    group = HostGroup.create(dist.group.WORLD)
    staging = _STAGING_MIB << 20
    movers = {
        "peer": PeerKVMover(own, others, group, staging),
        "collective": CollectiveKVMover(own, dist.group.WORLD, staging),
    }
    found = {}
    for low, high in _CHANGES[n]:
        for name, (count, width) in _LIVE.items():
            live = [_slots(home, count, width) for home in range(n)]
            kept = torch.stack(pool)
            there = unit_moves(chain, (low,) * n, (high,) * n)
            back = unit_moves(chain, (high,) * n, (low,) * n)
            found[f"{low} -> {high} -> {low}, {name}"] = _time(movers, group, there, back, live)
            # At degree 1 a live slot's row is all its own units; at 2 it also holds dead ones.
            mine = torch.from_numpy(live[rank])
            same = torch.equal(torch.stack(pool)[:, :, mine], kept[:, :, mine])
            assert low > 1 or same, "live KV changed"
    return found


def _time(
    movers: dict[str, KVMover], group: HostGroup, there: tuple, back: tuple, live: list
) -> dict:
    seconds: dict[str, list[float]] = {"plain": [], "peer": [], "collective": []}
    layers = range(_LAYERS)
    received = movers["peer"].move(layers, there, live)
    movers["peer"].move(layers, back, live)
    source = torch.ones(received, dtype=torch.uint8)
    target = torch.zeros_like(source)

    def timed(way: str, work: Callable[[], object]) -> None:
        group.barrier()
        start = time.perf_counter()
        work()
        group.barrier()
        seconds[way].append(time.perf_counter() - start)

    # The ways alternate, so that a drift of the machine favours none.
    for _ in range(_ROUNDS):
        timed("plain", lambda: target.copy_(source))
        for way, mover in movers.items():
            for moves in (there, back):
                timed(way, lambda mover=mover, moves=moves: mover.move(layers, moves, live))
        timed("plain", lambda: target.copy_(source))
    return {"megabytes": received / 1e6, **seconds}


def _slots(home: int, count: int, width: int) -> np.ndarray:
    return np.sort(np.random.default_rng(home).permutation(width)[:count] + 1)


def _pools(rank: int, n: int) -> tuple[list[torch.Tensor], list[list[torch.Tensor] | None]]:
    """Own KV by layer, [2, rows, heads, dim] fp32 in host memory, and the peers' by rank."""
    memory = HostMemory(64 << 10)
    shape = (_LAYERS, 2, _SLOTS + 1, _HEADS, _HEAD_DIM)
    where = memory.reserve(torch.Size(shape).numel() * 4)
    memory.map(where, 0, memory.create(where.size // memory.page_size))
    own = where.tensor(0, shape, torch.float32)
    own.normal_(generator=torch.Generator().manual_seed(rank))
    handles: list = [None] * n
    dist.all_gather_object(handles, memory.export())
    ranges = [None if r == rank else memory.open_peer(handles[r]) for r in range(n)]
    return list(own), [
        None if there is None else list(there.tensor(0, shape, torch.float32)) for there in ranges
    ]


if __name__ == "__main__":
    main()
