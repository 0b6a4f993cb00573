"""Requests of a simulation, and the workloads that they come in.

A workload keeps the order and the lengths of a trace but what it says it changes; its arrivals are
scaled to a mean of one request a second, and a run divides them by its rate.
"""

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
# A trace with more long requests than this has a tail of its own.
_TAIL = 0.002


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
    return Workload(path.stem, arrivals, prompts, outputs, long, changes=changes)


def mix_long(workload: Workload, share: float, tokens: int, seed: int, burst: int = 1) -> Workload:
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


def workloads_of(path: Path, size: float = 1.0) -> dict[str, Callable[[int], Workload]]:
    """By name, the workloads of a comparison that a trace gives rise to, each made from a seed.

    A trace with a tail of long requests is played as it is and with prompts twice as long; one
    without gets long requests mixed in. `size` scales how many rows are taken.
    """
    name = path.stem.split("_")[0]

    def read(count: int, seed: int, factor: float = 1.0) -> Workload:
        return read_trace(path, max(300, round(count * size)), seed, factor)

    tail = read(2000, 0).long
    if sum(tail) > _TAIL * len(tail):
        return {
            f"{name} x1": lambda seed: read(2000, seed),
            f"{name} x2": lambda seed: read(2000, seed, 2.0),
        }
    found = {name: lambda seed: read(4000, seed)}
    for share, count in ((0.001, 16_000), (0.003, 8000), (0.01, 4000)):
        found[f"{name} {100 * share:g}%"] = lambda seed, share=share, count=count: mix_long(
            read(count, seed), share, CONTEXT, seed
        )
    found[f"{name} bursts"] = lambda seed: mix_long(read(4000, seed), 0.01, CONTEXT, seed, burst=10)
    for share, tokens, period_s in ((0.004, CONTEXT, 300.0), (0.01, 100_000, 120.0)):
        found[f"{name} alternating {period_s:g} s"] = (
            lambda seed, share=share, tokens=tokens, period_s=period_s: alternate(
                read(6000, seed), share, tokens, seed, period_s
            )
        )
    return found
