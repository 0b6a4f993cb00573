"""The one style of all figures: colours that everybody tells apart, and words beside the marks."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from bench.results_file import Result  # noqa: E402

FIGURES = Path(__file__).parents[1] / "figures"
# Of Okabe and Ito, those that can be read on white.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, ORANGE = "#CC79A7", "#56B4E9", "#E69F00"
BLACK, GREY, PALE = "#000000", "#767676", "#DDDDDD"
_LETTERS_PER_INCH = 9
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, BLACK)

pyplot.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": BLACK,
        "ytick.labelcolor": BLACK,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.08,
        "savefig.facecolor": "white",
        # The same figure is the same file.
        "svg.hashsalt": "amoeba",
    }
)


@dataclass(frozen=True)
class Span:
    """A row: a dot at the median and a line from lowest to highest of what was `found`, named at
    the left, and `text` in words at the right. If only the highest is known, that is all."""

    label: str
    found: Mapping[str, float]
    colour: str
    text: str


def new_grid(
    rows: int, columns: int, size: tuple[float, float], share: str = "none"
) -> tuple[Figure, list[list[Axes]]]:
    """`size`: of the whole, in inches; `share`: as pyplot's sharey."""
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=share)
    return figure, [list(row) for row in grid]


def draw_spans(axes: Axes, spans: Sequence[Span]) -> None:
    """One below the other, the first on top."""
    for place, span in enumerate(reversed(spans)):
        found, colour = span.found, span.colour
        if "median" in found:
            ends = (found["min"], found["max"])
            axes.plot(ends, (place, place), color=colour, linewidth=2)
            axes.plot(found["median"], place, "o", color=colour, markersize=6)
        else:
            axes.plot(found["max"], place, "|", color=colour, markersize=9, markeredgewidth=2)
        axes.annotate(
            span.text, (found["max"], place), (7, 0), textcoords="offset points", va="center",
            fontsize=8, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(spans)), [span.label for span in reversed(spans)])
    axes.set_ylim(-0.6, len(spans) - 0.4)
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)


def draw_bound(axes: Axes, at: float, label: str) -> None:
    """A vertical line to compare with, named above it."""
    axes.axvline(at, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.annotate(
        label, (at, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="center", fontsize=8, color=GREY,
    )  # fmt: skip


_SIDES = {
    "right": ((7, 0), "left"),
    "left": ((-7, 0), "right"),
    "above": ((0, 10), "center"),
}


def name_point(
    axes: Axes, at: tuple[float, float], label: str, colour: str, side: str = "right"
) -> None:
    """Words in the colour of what they name, at a side of it."""
    offset, align = _SIDES[side]
    axes.annotate(
        label, at, offset, textcoords="offset points", ha=align, va="center", fontsize=8,
        color=colour, annotation_clip=False,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def name_end(
    axes: Axes, at: tuple[float, float], lines: Sequence[tuple[str, str]], height: float = 11
) -> None:
    """Words and their colours, a line each, right of the end of a bar."""
    for number, (words, colour) in enumerate(lines):
        axes.annotate(
            words, at, (6, height * ((len(lines) - 1) / 2 - number)), textcoords="offset points",
            va="center", fontsize=8, color=colour,
        )  # fmt: skip


def set_ticks(axes: Axes, ticks: Sequence[float], axis: str = "x") -> None:
    """These and no others, in plain numbers."""
    on = axes.xaxis if axis == "x" else axes.yaxis
    on.set_ticks(list(ticks), [f"{tick:,g}" for tick in ticks])
    on.set_ticks([], minor=True)


def describe(figure: Figure, title: str, note: str) -> None:
    """What it shows, above; what it leaves out and where it is from, below."""
    wrapped = textwrap.fill(title, round(_LETTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=GREY)


def origin(sources: Sequence[Result]) -> str:
    """Machine and commits, for a note."""
    hosts = dict.fromkeys(
        f"{one.cores} cores of an {re.sub(r'[(]R[)]| Processor', '', one.cpu)}" for one in sources
    )
    commits = dict.fromkeys(commit[:7] for one in sources for commit in one.commits)
    return f"{', '.join(hosts)}; {', '.join(commits)}"


def save(figure: Figure, path: Path, stamp: str | None = None) -> Path:
    """As what the name ends with; `stamp` says in an SVG of which data it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Source": stamp} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=130, metadata=metadata)
    pyplot.close(figure)
    return path


def spread_out(axes: Axes, heights: Sequence[float], apart: float = 0.09) -> list[float]:
    """Heights for words on a logarithmic axis: near those given, and no two on one another."""
    low, high = (math.log(edge) for edge in axes.get_ylim())
    step = apart * (high - low)
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    places = [math.log(height) for height in heights]
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + step)
    return [math.exp(place) for place in places]
