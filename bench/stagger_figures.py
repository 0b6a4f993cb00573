"""Plot of `bench.stagger`: how long gaps between tokens are, merges left and splits right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

FIGURES = Path(__file__).parent / "figures"
BAR = 1.5
_TICKS = (0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8)


def draw(result: Path) -> None:
    """bench/figures/NAME.png from bench/results/NAME.json."""
    data = json.loads(result.read_text())
    figures = data["figures"]
    FIGURES.mkdir(exist_ok=True)
    figure, panels = pyplot.subplots(1, 2, sharey=True, layout="constrained", figsize=(10, 4))
    for axes, kind in zip(panels, ("merge", "split"), strict=True):
        curves = {
            f"degree {degree}, nothing moves": gaps
            for degree, gaps in figures["gap_percentiles_of_median_gap"].items()
        }
        for way in ("staggered", "all at once"):
            curves[way] = figures[f"{way} {kind}"]["gap_percentiles_of_median_gap"]
        longest = max(gaps[-1] for gaps in curves.values())
        for label, gaps in curves.items():
            style = ":" if "nothing" in label else "-"
            axes.step(gaps, range(len(gaps)), style, where="post", label=label)
        axes.axvline(BAR, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlim(0.7, max(2.0, 1.1 * longest))
        axes.set_title(f"{kind}: gaps that overlap it", fontsize=9)
        axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("gap, in median gaps of the slower degree")
        axes.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel("% of the gaps that are not longer")
    medians = ", ".join(f"{gap:.0f} ms at {d}" for d, gap in figures["median_gap_ms"].items())
    figure.suptitle(
        f"{figures['settings']['workers']} workers, median gap {medians}; dashed: {BAR} x; "
        f"{data['commit']}, {data['machine']['cores']} cores",
        fontsize=9,
    )
    figure.savefig(FIGURES / f"{data['name']}.png", dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
