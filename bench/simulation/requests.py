"""Requests of a simulation, and the workloads that they come in.

A workload keeps the order and the lengths of a trace but what it says it changes; its arrivals are
scaled to a mean of one request a second, and a run divides them by its rate.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

# The longest context of the models that are simulated.
CONTEXT = 131_072
# Output of the long requests that are mixed in: the mean of the Mooncake conversation trace.
LONG_OUTPUT = 343
# Mooncake's arrivals come in ticks of about this many seconds; they are spread over it.
MOONCAKE_TICK_S = 3.0


@dataclass(frozen=True)
class Workload:
    """Arrivals in seconds at one request a second, tokens, and which requests count as long."""

    name: str
    arrivals: tuple[float, ...]
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    long: tuple[bool, ...]
    changes: str

    def __len__(self) -> int:
        return len(self.arrivals)


def read_trace(path: Path, count: int, seed: int, factor: float = 1.0) -> Workload:
    """The first `count` rows, prompts multiplied by `factor` and cut to the context."""
    with path.open() as file:
        rows = [
            (float(row["timestamp_s"]), int(row["input_tokens"]), int(row["output_tokens"]))
            for _, row in zip(range(count), csv.DictReader(file), strict=False)
        ]
    rng, changes = random.Random(seed), f"first {len(rows)} rows"
    times = [at for at, _, _ in rows]
    if "mooncake" in path.name:
        times = sorted(at + rng.uniform(0, MOONCAKE_TICK_S) for at in times)
        changes += f", arrivals spread over {MOONCAKE_TICK_S:g} s (seed {seed})"
    if factor != 1:
        changes += f", prompts x{factor:g} cut to {CONTEXT} tokens"
    outputs = tuple(max(1, output) for _, _, output in rows)
    prompts = tuple(
        max(1, min(int(prompt * factor), CONTEXT - output))
        for (_, prompt, _), output in zip(rows, outputs, strict=True)
    )
    scale = len(times) / (times[-1] - times[0])
    arrivals = tuple((at - times[0]) * scale for at in times)
    # What a worker of the smallest device does not hold.
    long = tuple(a + b > 24_000 for a, b in zip(prompts, outputs, strict=True))
    return Workload(path.stem, arrivals, prompts, outputs, long, changes)


def mix_long(
    workload: Workload, share: float, tokens: int, seed: int, burst: int = 1
) -> Workload:
    """Replace a seeded `share` of the requests, `burst` in a row each time, by long ones."""
    rng, count = random.Random(seed), len(workload)
    starts = rng.sample(range(count - burst), max(1, round(share * count / burst)))
    chosen = {start + k for start in starts for k in range(burst)}
    name = f"{100 * share:g}% x {tokens // 1024}K" + (f" in bursts of {burst}" if burst > 1 else "")
    return _with_long(workload, chosen, tokens, f"{name} (seed {seed})")


def alternate(
    workload: Workload, share: float, tokens: int, seed: int, period_s: float, duty: float = 0.5
) -> Workload:
    """Phases without long requests, then with `share` of them; seconds at 10 requests a second."""
    rng = random.Random(seed)
    chosen = {
        number
        for number, at in enumerate(workload.arrivals)
        if at / 10 % period_s >= period_s * (1 - duty) and rng.random() < share
    }
    what = f"{100 * share:g}% x {tokens // 1024}K in {duty:g} of every {period_s:g} s"
    return _with_long(workload, chosen, tokens, f"{what} (seed {seed})")


def _with_long(workload: Workload, chosen: set[int], tokens: int, what: str) -> Workload:
    prompts, outputs, long = map(list, (workload.prompts, workload.outputs, workload.long))
    for number in chosen:
        prompts[number], outputs[number] = tokens - LONG_OUTPUT - 57, LONG_OUTPUT
        long[number] = True
    return replace(
        workload,
        name=f"{workload.name} + {what.split(' (')[0]}",
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        long=tuple(long),
        changes=f"{workload.changes}; {what}",
    )


def standard_workloads(
    azure: Path, mooncake: Path, size: float = 1.0
) -> dict[str, Callable[[int], Workload]]:
    """By name, the workloads of a comparison, made from a seed; `size` scales their lengths."""

    def rows(count: int) -> int:
        return max(300, round(count * size))

    def mixed(share: float, count: int, burst: int = 1) -> Callable[[int], Workload]:
        return lambda seed: mix_long(
            read_trace(azure, rows(count), seed), share, CONTEXT, seed, burst
        )

    def phases(share: float, tokens: int, period_s: float, duty: float, count: int):
        return lambda seed: alternate(
            read_trace(azure, rows(count), seed), share, tokens, seed, period_s, duty
        )

    return {
        "azure": lambda seed: read_trace(azure, rows(4000), seed),
        "azure 0.1%": mixed(0.001, 16_000),
        "azure 0.3%": mixed(0.003, 8000),
        "azure 1%": mixed(0.01, 4000),
        "bursts of 10": mixed(0.01, 4000, burst=10),
        "alternating 300 s": phases(0.004, CONTEXT, 300.0, 0.5, 6000),
        "alternating 120 s": phases(0.01, 100_000, 120.0, 0.5, 6000),
        "mooncake x1": lambda seed: read_trace(mooncake, rows(2000), seed),
        "mooncake x2": lambda seed: read_trace(mooncake, rows(2000), seed, 2.0),
    }
