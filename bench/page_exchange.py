"""Weight pages that become KV pages and return, and the KV that moves with them.

    python -m bench.page_exchange [--cycles 1000] [--live 2048] [--slots 4096]

Real worker processes with the pages, weight store, KV ranges and mover of the server, in the shape
of the bundled model (30 layers, fp32), without the model. A cycle is a merge of all workers and the
split back; grown rows are overwritten in between, weights and live KV compared at the end. Beside
it, in turn: a plain copy of as many bytes, and "Basic" (arXiv 2509.19729): allocate a second KV
pool, copy the live tokens into it, free the first.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amoeba_sglang.control.transform.moves import unit_moves
from bench import results_file
from bench.footprint import Peak, mappings
from bench.page_worker import CHAINS, PAGE, SHAPES, PageWorker, live_slots
from bench.transform_ways import move_to_second_pool
from tests.processes import run_workers

_SHAPE = SHAPES["SmolLM2-135M fp32"]
_LAYERS = _SHAPE.layers
_BASIC_ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--live", type=int, default=2048, help="live tokens of a worker")
    parser.add_argument("--slots", type=int, default=4096, help="slots of a worker's pool")
    options = parser.parse_args()
    figures = {}
    for n in CHAINS:
        by_rank = run_workers(n, _measure, options.cycles, options.live, options.slots,
                              timeout_s=3600.0)  # fmt: skip
        figures[f"{n} workers"] = _summarise(by_rank)
        for name, value in figures[f"{n} workers"].items():
            print(f"{n} workers: {name}: {value}", flush=True)
    results_file.write("page_exchange", {"settings": vars(options), **figures})


def _summarise(by_rank: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest worker of every round counts; memory is the largest of all workers."""
    rounds = {
        way: np.max([worker["seconds"][way] for worker in by_rank], axis=0)
        for way in by_rank[0]["seconds"]
    }
    first = by_rank[0]
    refill = {
        f"{split}, of {way}": float(np.median(rounds[way]) / np.median(rounds[split]))
        for split in rounds
        if split.startswith("split, weights")
        for way in rounds
        if way.startswith("plain")
    }
    return {
        "ms": {
            way: results_file.spread((seconds * 1e3).tolist()) for way, seconds in rounds.items()
        },
        "weight bytes copied by a split": first["weight_bytes"],
        "weight bytes missing after a merge": first["missing_bytes"],
        "KV bytes received by a merge": first["kv_bytes"],
        "rate of weight refill": refill,
        "weights unmapped at the merge, of (1 - 1/d) of them": min(
            worker["unmapped"] for worker in by_rank
        ),
        "KV memory gained, of what they hold": min(worker["gained"] for worker in by_rank),
        "peak extra memory, MiB": {
            way: max(worker["peaks"][way] for worker in by_rank) / 2**20 for way in first["peaks"]
        },
        "flat": [worker["flat"] for worker in by_rank],
    }


class _Worker(PageWorker):
    """That knows what it takes from the machine."""

    def footprint(self) -> dict[str, int]:
        size = int(Path("/proc/self/statm").read_text().split()[0])
        return {
            "physical_kib": self.memory.physical_bytes() // 1024,
            "maps": Path("/proc/self/maps").read_bytes().count(b"\n"),
            "address_space_mib": size * os.sysconf("SC_PAGE_SIZE") // 2**20,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }

    def resident_weights(self) -> int:
        """Bytes of the weight store's addresses that have memory behind them (smaps)."""
        start = self.weights[0].data_ptr()
        end = start + self.store.pages.total_pages * PAGE
        pieces = mappings(os.getpid())
        return sum(m.resident for m in pieces if start <= m.low and m.high <= end)


class _Exchange:
    """Merges and splits of one worker and its peers, timed; `chosen`: live slots of every home."""

    def __init__(self, worker: _Worker, n: int, chosen: list[Any], slots: int) -> None:
        self.worker, self._n, self._slots, self.chosen = worker, n, slots, chosen
        self.merge = unit_moves(worker.chain, (1,) * n, (n,) * n)
        self._split = unit_moves(worker.chain, (n,) * n, (1,) * n)
        self.seconds: dict[str, list[float]] = {}
        self.moved: dict[str, int] = {}

    def timed(self, way: str, work: Any) -> Any:
        self.worker.group.barrier()
        start = time.perf_counter()
        result = work()
        self.worker.group.barrier()
        self.seconds.setdefault(way, []).append(time.perf_counter() - start)
        return result

    def cycle(self) -> None:
        """A merge and its split, between which all grown memory is written to."""
        worker, layers, timed = self.worker, range(_LAYERS), self.timed
        self.moved["kv_bytes"] = timed(
            "merge, KV", lambda: worker.mover.move(layers, self.merge, self.chosen)
        )
        timed("merge, pages", lambda: worker.change(self._n))
        rows = worker.ranges.rows
        for layer in range(0, _LAYERS, 7):
            grown = worker.ranges.layer(layer, (rows, *worker.kv_shape[1:]), torch.float32)
            for tensor in grown:
                tensor[self._slots + 1 :] = float("nan")
        self.moved["weight_bytes"] = timed("split, weights", lambda: worker.change(1))
        pages = worker.store.pages
        timed(
            "split, weights: the copies alone, once more",
            lambda: worker.store.refill(pages.all_at(self._n), worker.peer_weights),
        )
        timed("split, KV", lambda: worker.mover.move(layers, self._split, self.chosen))

    def basic(self) -> None:
        """The KV of a merge as Basic would move it."""
        worker = self.worker
        pools = worker.blocks, worker.units, worker.chain.finest
        move = partial(move_to_second_pool, *pools, self.merge, self.chosen)
        self.timed("Basic, KV of a merge", move)


def _measure(rank: int, n: int, cycles: int, live: int, slots: int) -> dict[str, Any]:
    worker = _Worker(rank, n, slots, _SHAPE)
    chosen = [live_slots(home, live, slots) for home in range(n)]
    exchange = _Exchange(worker, n, chosen, slots)
    pages = worker.store.pages
    refills = pages.missing_ranges(pages.all_at(n), pages.all_at(1), rank)
    missing = sum(refill.stop - refill.start for refill in refills)
    kept_weights = [w.clone() for w in worker.weights[::7]]
    mine = torch.from_numpy(chosen[rank])
    kept_kv = [key[mine].clone() for key, _ in worker.blocks[::7]]
    source = torch.ones(missing, dtype=torch.uint8)
    target = torch.zeros_like(source)
    pieces = list(zip(target.chunk(2 * _LAYERS), source.chunk(2 * _LAYERS), strict=True))
    found: dict[str, Any] = {"missing_bytes": missing, "peaks": {}}
    before = worker.resident_weights()
    worker.change(n)
    ideal = pages.payload_bytes * (n - 1) / n
    found["unmapped"] = (before - worker.resident_weights()) / ideal
    gained = (worker.ranges.rows - worker.ranges.base_rows) * worker.ranges.row_bytes
    found["gained"] = 2 * _LAYERS * gained / ideal
    worker.group.barrier()
    worker.change(1)
    worker.group.barrier()
    exchange.cycle()
    flat = {1: worker.footprint()}
    for number in range(2, cycles + 1):
        exchange.timed("plain copy of the weights", lambda: target.copy_(source))
        exchange.timed("plain copy of the weights, in as many pieces", lambda: copy_pieces(pieces))
        exchange.cycle()
        if number in (cycles // 2, cycles):
            flat[number] = worker.footprint()
    with Peak(worker.memory) as peak:
        for _ in range(10):
            exchange.cycle()
    found["peaks"]["ours, beside the staging buffer"] = peak.extra
    for w, kept in zip(worker.weights[::7], kept_weights, strict=True):
        assert torch.equal(w, kept), "weights changed"
    for (key, _), kept in zip(worker.blocks[::7], kept_kv, strict=True):
        assert torch.equal(key[mine], kept), "live KV changed"
    with Peak(worker.memory) as peak:
        for _ in range(_BASIC_ROUNDS):
            exchange.basic()
    found["peaks"]["Basic"] = peak.extra
    return {**found, **exchange.moved, "seconds": exchange.seconds, "flat": flat}


def copy_pieces(pieces: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for target, source in pieces:
        target.copy_(source)


if __name__ == "__main__":
    main()
