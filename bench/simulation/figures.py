"""Plots of a simulation: sustained rates by workload and contender."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from bench.simulation.tables import summarise  # noqa: E402

FIGURES = Path(__file__).parents[1] / "figures"


def draw(result: Path) -> None:
    """One PNG a device from a results file: (a) above, (b) below, relative to `amoeba`."""
    data = json.loads(result.read_text())
    rows = data["figures"]["cases"]
    FIGURES.mkdir(exist_ok=True)
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        name = f"{result.stem}_{Path(device).stem}.png"
        _draw(device, here, data["commit"]).savefig(FIGURES / name, dpi=110)


def _draw(device: str, rows: list[dict[str, Any]], commit: str) -> Any:
    names = list(dict.fromkeys(row["contender"] for row in rows))
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure, panes = pyplot.subplots(2, 1, figsize=(14, 8), layout="constrained", sharex=True)
    width = 0.9 / len(names)
    for axes, key in zip(panes, ("a", "b"), strict=True):
        found = summarise(rows, key)
        for index, name in enumerate(names):
            heights = [
                found[w]["rates"].get(name, 0.0) / (found[w]["rates"].get("amoeba") or 1.0)
                for w in workloads
            ]
            at = [number + (index - len(names) / 2) * width for number in range(len(workloads))]
            axes.bar(at, heights, width, label=name)
        axes.axhline(1.0, color="black", linewidth=0.5)
        axes.set_ylabel(f"requests/s over amoeba's, ({key})")
    panes[1].set_xticks(range(len(workloads)), workloads)
    panes[0].legend(ncols=6, fontsize=7)
    figure.suptitle(f"SIMULATED, {device}, {commit}")
    return figure
