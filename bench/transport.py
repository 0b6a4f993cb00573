"""Latency of the group operations: shared memory beside gloo, real processes, in one run.

`python -m bench.transport` prints a table and writes bench/results/transport.json.
"""

import os
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport import GlooGroup, HostGroup, TransportGroup
from bench import results_file
from tests.processes import run_workers

_SIZES = (2, 4)
_HIDDEN = 576
_BLOCKS = 12
_OPS_PER_BLOCK = 20


def main() -> None:
    figures: dict = {}
    load = [os.getloadavg()[0]]
    for n in _SIZES:
        seconds = run_workers(n, _measure, timeout_s=600.0)
        for name in seconds[0]:
            # An operation is over when its slowest rank is.
            blocks = np.max([by_rank[name] for by_rank in seconds], axis=0)
            figures[f"{n} ranks, {name}, us"] = results_file.spread((blocks * 1e6).tolist())
    figures["load average, start and end"] = [*load, os.getloadavg()[0]]
    results_file.write("transport", figures)
    print(f"\n{'median (min-max), us':36}{'shared memory':>28}{'gloo':>28}")
    for name in figures:
        if "peer" in name:
            cells = (_cell(figures[name]), _cell(figures[name.replace("peer", "collective")]))
            print(f"{name.replace(', peer, us', ''):36}{cells[0]:>28}{cells[1]:>28}")


def _cell(spread: dict[str, float]) -> str:
    return f"{spread['median']:.0f} ({spread['min']:.0f}-{spread['max']:.0f})"


def _measure(rank: int, n: int) -> dict[str, list[float]]:
    """Seconds per operation of every block, by operation and transport."""
    groups = {"peer": HostGroup.create(dist.group.WORLD), "collective": GlooGroup(dist.group.WORLD)}
    seconds: dict[str, list[float]] = {}
    for name, prepare in _operations().items():
        for block in range(_BLOCKS + 1):
            for kind, group in groups.items():
                operation = prepare(group)
                groups["peer"].barrier()
                start = time.perf_counter()
                for _ in range(_OPS_PER_BLOCK):
                    operation()
                elapsed = time.perf_counter() - start
                if block:  # the first one warms up
                    seconds.setdefault(f"{name}, {kind}", []).append(elapsed / _OPS_PER_BLOCK)
        if rank == 0:
            print(f"{n} ranks: {name} done", flush=True)
    return seconds


def _operations() -> dict[str, Callable[[TransportGroup], Callable[[], object]]]:
    operations: dict[str, Callable] = {}
    for rows in (8, 64, 256):
        for dtype in (torch.float32, torch.bfloat16):
            label = f"all_reduce [{rows},{_HIDDEN}] {str(dtype).removeprefix('torch.')}"
            operations[label] = _sum_of(rows, dtype)
    for length in (50, 5000):
        operations[f"exchange {length} int64"] = _exchange_of(length)
    operations["barrier"] = lambda group: group.barrier
    return operations


def _sum_of(rows: int, dtype: torch.dtype) -> Callable:
    def prepare(group: TransportGroup) -> Callable[[], object]:
        # Sums of ones grow to size**20 in a block, which even bfloat16 holds.
        x = torch.ones(rows, _HIDDEN, dtype=dtype)
        return lambda: group.all_reduce(x)

    return prepare


def _exchange_of(length: int) -> Callable:
    record = np.arange(length)
    return lambda group: lambda: group.exchange(record)


if __name__ == "__main__":
    main()
