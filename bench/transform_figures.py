"""Plots of `bench.transform`: one row a model shape, one column a degree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FIGURES = Path(__file__).parent / "figures"
_TITLES = {
    "KV of a merge": "transform_kv",
    "weights of a split": "transform_weights",
    "overall of a merge": "transform_overall_merge",
    "overall of a split": "transform_overall_split",
}


def draw(result: Path) -> None:
    """PNGs of the paper's Figures 9, 10 and 11 from bench/results/transform.json."""
    data = json.loads(result.read_text())
    FIGURES.mkdir(exist_ok=True)
    cases = data["figures"]["cases"]
    for what, name in _TITLES.items():
        _draw(cases, what, f"{data['commit']}, {data['machine']['cores']} cores").savefig(
            FIGURES / f"{name}.png", dpi=110
        )


def _draw(cases: list[dict[str, Any]], what: str, measured_on: str) -> Any:
    shapes = list(dict.fromkeys(case["shape"] for case in cases))
    degrees = sorted({case["degree"] for case in cases})
    figure, grid = pyplot.subplots(
        len(shapes), len(degrees), squeeze=False, layout="constrained",
        figsize=(5 * len(degrees), 3 * len(shapes)),
    )  # fmt: skip
    for row, shape in zip(grid, shapes, strict=True):
        for axes, degree in zip(row, degrees, strict=True):
            chosen = [c for c in cases if (c["shape"], c["degree"]) == (shape, degree)]
            chosen.sort(key=lambda case: case["live_tokens"])
            for way in chosen[0]["ms"] if chosen else []:
                if not way.startswith(what):
                    continue
                spreads = [case["ms"][way] for case in chosen]
                medians = [spread["median"] for spread in spreads]
                errors = [
                    [m - spread["min"] for m, spread in zip(medians, spreads, strict=True)],
                    [spread["max"] - m for m, spread in zip(medians, spreads, strict=True)],
                ]
                axes.errorbar(
                    [case["live_tokens"] for case in chosen], medians, errors,
                    marker="o", capsize=2, label=way.partition(": ")[2],
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("symlog", linthresh=1)
            axes.set_title(f"{shape}, degree {degree}", fontsize=9)
            axes.set_xlabel("live tokens of the instance")
            axes.set_ylabel("ms")
            axes.legend(fontsize=7)
    figure.suptitle(f"{what}; median, lowest and highest round; {measured_on}", fontsize=9)
    return figure


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
