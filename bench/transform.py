"""What a transformation costs, by method: the paper's Figures 9, 10 and 11 on this machine.

    python -m bench.transform [--rounds 10] [--shapes NAME ...] [--live 1024 8192 32768]

Real worker processes with the pages, weights, KV and transformations of the server in the shape of
a model; the model's MLP products on 8 rows a worker stand in for its steps. Ways alternate within
a round. A restart of the real server is timed by `bench.transform_cost`.

KV (Figure 9) and weights (Figure 10): seconds of a merge and a split, all layers at once. Overall
(Figure 11): seconds beyond those of the same steps without a change, for all layers at once, a few
layers a step, and a few beside the computation.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from amoeba_sglang.control.transform.moves import unit_moves
from bench import results_file
from bench.charts.measured import draw_transform
from bench.page_worker import CHAINS, SHAPES, PageWorker, live_slots
from bench.transform_steps import Steps
from bench.transform_ways import HostSwap, move_to_second_pool, swap_weights
from tests.processes import run_workers

_ROWS = 8
# At each degree without a change; about as many as a staggered change takes.
_PLAIN_STEPS = 24
# (layers a step, beside the computation)
PACES = {
    "all at once": (0, False),
    "staggered, no overlap": (None, False),
    "staggered, overlap (Amoeba)": (None, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--workers", nargs="+", type=int, choices=CHAINS, default=list(CHAINS))
    parser.add_argument(
        "--live", nargs="+", type=int, default=[1024, 8192, 32768],
        help="live tokens of the whole instance",
    )  # fmt: skip
    options = parser.parse_args()
    cases = [(s, n, live) for s in options.shapes for n in options.workers for live in options.live]
    figures = []
    try:
        for number, (shape, n, live) in enumerate(cases, 1):
            print(f"[{number}/{len(cases)}] {shape}, degree 1 <-> {n}, {live} tokens", flush=True)
            by_rank = run_workers(n, _measure, shape, live // n, options.rounds, timeout_s=900.0)
            case = {"shape": shape, "degree": n, "live_tokens": live, **_summarise(by_rank)}
            for way, spread in case["ms"].items():
                range_ms = f"{spread['min']:.1f}-{spread['max']:.1f}"
                print(f"  {way}: {spread['median']:.1f} ({range_ms}) ms", flush=True)
            figures.append(case)
    finally:
        # All shapes take most of an hour: what an interrupted run has measured is not lost.
        if figures:
            results_file.write("transform", {"settings": vars(options), "cases": figures})
            draw_transform(results_file.read("transform"))


def _summarise(by_rank: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest worker of every round counts."""
    ways = by_rank[0]["seconds"]
    return {
        "ms": {
            way: results_file.spread(
                (1e3 * np.max([worker["seconds"][way] for worker in by_rank], axis=0)).tolist()
            )
            for way in ways
        },
        "step_ms": {d: 1e3 * max(w["steps"][d] for w in by_rank) for d in by_rank[0]["steps"]},
        "longest_step_of_slower_degree": {
            name: results_file.spread(
                np.max([worker["longest"][name] for worker in by_rank], axis=0).tolist()
            )
            for name in by_rank[0]["longest"]
        },
        "tokens_of_slower_degree": {
            name: results_file.spread(
                np.min([worker["tokens"][name] for worker in by_rank], axis=0).tolist()
            )
            for name in by_rank[0]["tokens"]
        },
        "moves": {name: by_rank[0]["moves"][name] for name in by_rank[0]["moves"]},
        "kv_bytes": by_rank[0]["kv_bytes"],
        "weight_bytes": by_rank[0]["weight_bytes"],
    }


class _Clock:
    """Seconds of each way of a round; all workers start and end together."""

    def __init__(self, worker: PageWorker) -> None:
        self._worker, self.seconds = worker, {}

    def time(self, way: str, work: Any, *args: Any) -> Any:
        self._worker.group.barrier()
        start = time.perf_counter()
        result = work(*args)
        self._worker.group.barrier()
        self.add(way, time.perf_counter() - start)
        return result

    def add(self, way: str, seconds: float) -> None:
        self.seconds.setdefault(way, []).append(seconds)


def _measure(rank: int, n: int, name: str, live: int, rounds: int) -> dict[str, Any]:
    worker = PageWorker(rank, n, live + 64, SHAPES[name])
    chosen = [live_slots(home, live, live + 64) for home in range(n)]
    host, clock, layers = HostSwap(worker, live), _Clock(worker), range(worker.shape.layers)
    found: dict[str, Any] = {"longest": {}, "tokens": {}, "moves": {}}
    with ThreadPoolExecutor(1) as helper:
        steps = Steps(worker, _ROWS, helper)
        for number in range(rounds + 1):
            if number == 1:
                # The first round only warms up.
                clock.seconds.clear()
            for kind, before, after in (("merge", 1, n), ("split", n, 1)):
                moves = unit_moves(worker.chain, (before,) * n, (after,) * n)
                pools = worker.blocks, worker.units, worker.chain.finest
                basic = partial(move_to_second_pool, *pools, moves, chosen)
                clock.time(f"KV of a {kind}: Basic", basic)
                clock.time(f"KV of a {kind}: Seesaw", host.move, before, after, chosen)
                # Back through the host, so that the next way finds the same.
                host.move(after, before, chosen)
                clock.time(f"KV of a {kind}: Amoeba", worker.mover.move, layers, moves, chosen)
                clock.time(
                    f"weights of a {kind}: Partial Swap", swap_weights, worker, before, after
                )
                found["weight_bytes"] = clock.time(
                    f"weights of a {kind}: Amoeba", worker.change, after
                )
                # No step runs meanwhile, so the whole time is the cost.
                for rival in ("Basic", "Seesaw"):
                    clock.add(
                        f"overall of a {kind}: {rival}, Partial Swap",
                        clock.seconds[f"KV of a {kind}: {rival}"][-1]
                        + clock.seconds[f"weights of a {kind}: Partial Swap"][-1],
                    )
            _transform(worker, steps, clock, chosen, found)
    found["kv_bytes"] = found.pop("report").kv_bytes
    return {**found, "seconds": clock.seconds, "steps": found.pop("step_seconds")}


def _transform(
    worker: PageWorker, steps: Steps, clock: _Clock, chosen: list[np.ndarray], found: dict
) -> None:
    """Every pace once, merge and split; what the same steps cost at degrees 1 and n is measured in
    the same round."""
    n, layers = worker.n, worker.shape.layers
    plain, changes = {1: _plain_steps(steps)}, {}
    for pace, (layers_per_step, overlap) in PACES.items():
        for kind, after in (("merge", n), ("split", 1)):
            way = f"overall of a {kind}: {pace}"
            changes[way] = steps.transform(after, chosen[worker.rank], layers_per_step, overlap)
            if after not in plain:
                plain[after] = _plain_steps(steps)
    # Means, for what is held against them is a sum that has all stalls of the machine in it.
    mean = {degree: float(np.mean(seconds)) for degree, seconds in plain.items()}
    found["step_seconds"] = {d: float(np.median(seconds)) for d, seconds in plain.items()}
    slower = max(found["step_seconds"].values())
    for way, (seconds, boundaries, report) in changes.items():
        expected = [(b * mean[1] + (layers - b) * mean[n]) / layers for b in boundaries]
        clock.add(way, sum(seconds) - sum(expected))
        found["longest"].setdefault(way, []).append(max(seconds) / slower)
        found["tokens"].setdefault(way, []).append(slower * len(seconds) / sum(seconds))
        found["moves"][way] = report.moves
        found["report"] = report


def _plain_steps(steps: Steps) -> list[float]:
    return [steps.run(None) for _ in range(_PLAIN_STEPS)]


if __name__ == "__main__":
    main()
