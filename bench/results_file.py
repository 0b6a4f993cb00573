"""Benchmark results as JSON with the machine and the commit they were measured on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One file of bench/results. `commits`: of all its parts; `cores` of a `cpu`."""

    name: str
    commits: tuple[str, ...]
    cpu: str
    cores: int
    figures: dict[str, Any]


def read(name: str) -> Result:
    """Read bench/results/NAME.json."""
    data = json.loads((RESULTS / f"{name}.json").read_text())
    # `bench.cpu_attention` and `bench.soak` write files of their own form.
    figures = data.get("figures", data)
    runs = [
        run
        for version in data.get("versions", {}).values()
        for case in version.values()
        for run in case["runs"]
    ]
    host = data.get("machine") or runs[0]["machine"]
    parts = [part.get("commit") if isinstance(part, dict) else None for part in figures.values()]
    commits = list(data.get("versions", [data.get("commit")]))
    return Result(
        name=name,
        # Rows that ran at different commits say at which.
        commits=tuple(dict.fromkeys(parts if all(parts) else commits)),
        cpu=host["cpu"],
        cores=host["cores"],
        figures=figures,
    )


def machine() -> dict[str, Any]:
    """What a reader needs to compare the figures with another machine's."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if "model name" in line), "?")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def commit(here: Path = Path(__file__).parents[1]) -> str:
    """Commit of the checkout `here`; "-dirty" when the working tree differs from it."""
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "amoeba_sglang", "patches"],
        cwd=here, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return head + ("-dirty" if dirty else "")


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum, maximum and count of repeated measurements."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


def compare_pairs(pairs: list[dict[str, float]], above: str, below: str) -> dict[str, Any]:
    """Ratios of two sides that were measured in turn.

    Whichever runs first in a pair is a little slower, which an even number of pairs cancels.
    """
    total = {side: sum(pair[side] for pair in pairs) for side in (above, below)}
    return {
        "ratio": spread([pair[above] / pair[below] for pair in pairs]),
        "ratio_of_means": total[above] / total[below],
    }


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write bench/results/NAME.json and print it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    result = {
        "name": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "figures": figures,
    }
    text = json.dumps(result, indent=1)
    path.write_text(text + "\n")
    print(text)
    return path


def add_row(name: str, row: str, figures: dict[str, Any]) -> Path:
    """Write bench/results/NAME.json with one row of its figures anew, which says its commit."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["figures"] if path.exists() else {}
    return write(name, {**rows, row: {"commit": commit(), **figures}})
