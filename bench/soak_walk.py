"""A random walk over the layouts of a server, and what each transformation cost its clients."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import numpy as np

from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from bench.soak_load import Gaps
from tests.serving.servers import Server

BEFORE_S = 5.0
STEP_PERCENTILE = 95


class Walk:
    """Transforms `server`, and remembers the answers and their time."""

    def __init__(self, server: Server, workers: int, rng: random.Random) -> None:
        self.server = server
        self.chain = DegreeChain(tuple(server.state()["degrees"]))
        self.layout = Layout.uniform(workers, 1)
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.made: list[dict[str, Any]] = []
        self._rng = rng

    def step(self) -> None:
        """One random change to another layout."""
        ranks, degree, target = self._rng.choice(self._changes())
        self.change(ranks, degree, target)

    def settle(self, degree: int) -> None:
        """Bring all workers to `degree`; they are one block."""
        ranks = tuple(range(len(self.layout.degrees)))
        target = Layout.uniform(len(ranks), degree)
        if target != self.layout:
            self.change(ranks, degree, target)

    def follow_server(self) -> None:
        """Take the layout that another client's transformation has made."""
        instances = self.server.state()["instances"]
        self.layout = Layout(tuple(i["degree"] for i in instances for _ in i["ranks"]))

    def change(self, ranks: tuple[int, ...], degree: int, target: Layout) -> None:
        posted = time.monotonic()
        status, reply = self.server.transform(list(ranks), degree)
        answered = time.monotonic()
        outcome = reply.get("outcome", "error") if isinstance(reply, dict) else "error"
        self.outcomes[f"{status} {outcome}"] += 1
        if status != 200:
            self.problems.append(f"{ranks} -> {degree}: {status} {reply}")
            return
        self.layout = target
        self.made.append({**reply, "posted": posted, "answered": answered})

    def _changes(self) -> list[tuple[tuple[int, ...], int, Layout]]:
        """Every change that leads to another layout."""
        found, workers = [], len(self.layout.degrees)
        for width in self.chain.degrees[1:]:
            for first in range(0, workers, width):
                ranks = tuple(range(first, first + width))
                for degree in self.chain.degrees:
                    try:
                        target = self.layout.change(self.chain, ranks, degree)
                    except LayoutError:
                        continue
                    if target != self.layout:
                        found.append((ranks, degree, target))
        return found

    def figures(self, gaps: Gaps) -> dict[str, Any]:
        """Times in seconds. Gaps and steps are those that streaming clients saw."""
        starts, ends = np.array(gaps.starts), np.array(gaps.ends)
        longest, steps = [], []
        crossing = np.zeros(len(ends), dtype=bool)
        for made in self.made:
            low, high = np.searchsorted(ends, [made["posted"], made["answered"] + 60])
            near = np.arange(low, high)[starts[low:high] < made["answered"]]
            crossing[near] = True
            if len(near):
                longest.append(float((ends[near] - starts[near]).max()))
            early = slice(np.searchsorted(ends, made["posted"] - BEFORE_S), low)
            if early.stop - early.start >= 20:
                step = np.percentile(ends[early] - starts[early], STEP_PERCENTILE)
                steps.append(_to_lock_step(made) / float(step))
        quiet = (ends - starts)[~crossing]
        return {
            "outcomes": dict(self.outcomes),
            "problems": self.problems[:20],
            "bytes_kv": sum(made["bytes_moved"]["kv"] for made in self.made),
            "seconds": quantiles([made["seconds"] for made in self.made]),
            "prepare_seconds": quantiles([made["prepare_seconds"] for made in self.made]),
            "lockstep_seconds": quantiles([made["lockstep_seconds"] for made in self.made]),
            "longest_step_seconds": quantiles([made["longest_step_seconds"] for made in self.made]),
            "post_to_lock_step_seconds": quantiles([_to_lock_step(made) for made in self.made]),
            f"post_to_lock_step_in_p{STEP_PERCENTILE}_gaps_of_the_{BEFORE_S:g}_s_before": quantiles(
                steps
            ),
            "longest_gap_over_a_transformation": quantiles(longest),
            "gaps_over_transformations": quantiles(ends[crossing] - starts[crossing]),
            "gaps_elsewhere": quantiles(quiet),
        }


def _to_lock_step(made: dict[str, Any]) -> float:
    """From the order until all workers of the block stand still."""
    return made["prepare_seconds"] + made["lockstep_seconds"]


def quantiles(values: Any) -> dict[str, float]:
    """Count, p50, p99 and maximum."""
    if len(values) == 0:
        return {"count": 0}
    p50, p99 = np.percentile(values, [50, 99])
    return {
        "count": len(values),
        "p50": round(float(p50), 5),
        "p99": round(float(p99), 5),
        "max": round(float(np.max(values)), 5),
    }
