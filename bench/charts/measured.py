"""Figures of single benches: drawn after them and by `python -m tools.results --figures DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import style
from bench.results_file import Result, read
from bench.simulation.tables import summarise

_GAP_TICKS = (0.5, 0.75, 1, 1.5, 2, 3, 4)
# Where the name of each curve stands, in percent: apart from one another.
_NAMED_AT = (97, 82, 64, 46)
_LEAST_MS = 1
_PARTS = {
    "KV of a merge": "transform_kv",
    "weights of a split": "transform_weights",
    "overall of a merge": "transform_overall_merge",
    "overall of a split": "transform_overall_split",
}
_COLUMNS = 3


def draw_all(folder: Path) -> list[Path]:
    paths = [
        draw_stagger(read(name), folder)
        for name in ("stagger_n2", "stagger_n2_many_tokens", "stagger_n4")
    ]
    paths += draw_transform(read("transform"), folder)
    for name in ("simulation_tp_loss", "simulation_roofline", "simulation_rivals"):
        paths += draw_simulation(read(name), folder)
    return paths


def draw_stagger(source: Result, folder: Path = style.FIGURES) -> Path:
    """Of `bench.stagger`: how long gaps between tokens are, in merges left and in splits right."""
    figures = source.figures
    low, high = figures["gap_percentiles_of_median_gap"]
    figure, [row] = style.new_grid(1, 2, (11, 4.2), share="row")
    for axes, kind in zip(row, ("merge", "split"), strict=True):
        plain = figures["gap_percentiles_of_median_gap"]
        curves = {
            f"degree {low}, no change": (plain[low], style.GREY, "--"),
            f"degree {high}, no change": (plain[high], style.BLACK, ":"),
            **{
                way: (figures[f"{way} {kind}"]["gap_percentiles_of_median_gap"], colour, "-")
                for way, colour in (("staggered", style.BLUE), ("all at once", style.VERMILLION))
            },
        }
        for (label, (gaps, colour, line)), at in zip(curves.items(), _NAMED_AT, strict=True):
            axes.step(gaps, range(len(gaps)), line, color=colour, where="post")
            end = max(curve[at] for curve, _, _ in curves.values())
            axes.annotate(
                label, (gaps[at], at), (end * 1.12, at), color=colour, fontsize=8, va="center",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5},
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(0.4, 6)
        style.set_ticks(axes, _GAP_TICKS)
        axes.set_title(f"gaps that overlap a {kind}")
        axes.set_xlabel("gap, in median gaps of the slower degree, logarithmic")
    row[0].set_ylabel("gaps that are not longer, %")
    medians = ", ".join(f"{gap:.0f} ms at {at}" for at, gap in figures["median_gap_ms"].items())
    style.describe(
        figure,
        f"Gaps between tokens, {figures['settings']['workers']} workers",
        f"Median gap {medians}. Left out: the few gaps beyond the axis, and prompts.\n"
        + style.origin([source]),
    )
    return style.save(figure, folder / f"{source.name}.png")


def draw_transform(source: Result, folder: Path = style.FIGURES) -> list[Path]:
    """Of `bench.transform`, the paper's Figures 9, 10 and 11: a row a model, a column a degree."""
    return [
        style.save(_draw_costs(source, what), folder / f"{name}.png")
        for what, name in _PARTS.items()
    ]


def _draw_costs(source: Result, what: str) -> Figure:
    cases = source.figures["cases"]
    shapes = list(dict.fromkeys(case["shape"] for case in cases))
    degrees = sorted({case["degree"] for case in cases})
    ways = [way for way in cases[0]["ms"] if way.startswith(what)]
    colours = dict(zip(ways, style.PALETTE, strict=False))
    size = (5.5 * len(degrees), 2.7 * len(shapes) + 0.8)
    figure, grid = style.new_grid(len(shapes), len(degrees), size)
    for row, shape in zip(grid, shapes, strict=True):
        for axes, degree in zip(row, degrees, strict=True):
            chosen = [c for c in cases if (c["shape"], c["degree"]) == (shape, degree)]
            axes.set_title(f"{shape}, degree {degree}")
            axes.set_xlabel("live tokens of the instance")
            axes.set_ylabel("ms, logarithmic")
            if chosen:
                _draw_case(axes, sorted(chosen, key=lambda case: case["live_tokens"]), colours)
    style.describe(
        figure,
        f"{what[0].upper()}{what[1:]}, by way",
        "Median, lowest and highest round. Left out: what is below "
        f"{_LEAST_MS} ms, which a difference of two noisy times may be.\n" + style.origin([source]),
    )
    return figure


def _draw_case(axes: Axes, cases: list[dict[str, Any]], colours: dict[str, str]) -> None:
    live = [case["live_tokens"] for case in cases]
    ends = {way: max(_LEAST_MS, cases[-1]["ms"][way]["median"]) for way in colours}
    for number, (way, colour) in enumerate(colours.items()):
        found = [case["ms"][way] for case in cases]
        middle = [max(_LEAST_MS, one["median"]) for one in found]
        low = [at - max(_LEAST_MS, one["min"]) for at, one in zip(middle, found, strict=True)]
        high = [max(_LEAST_MS, one["max"]) - at for at, one in zip(middle, found, strict=True)]
        # Beside one another, so that no range hides another one.
        places = [at * 1.06**number for at in live]
        axes.errorbar(places, middle, [low, high], color=colour, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(bottom=_LEAST_MS)
    axes.set_xlim(live[0] / 1.5, live[-1] * 16)
    style.set_ticks(axes, live)
    style.set_ticks(axes, (1, 10, 100, 1_000), "y")
    for place, way in zip(style.spread_out(axes, list(ends.values())), ends, strict=True):
        name = way.partition(": ")[2]
        style.name_point(axes, (live[-1] * 1.4, place), name, colours[way])


def draw_simulation(source: Result, folder: Path = style.FIGURES) -> list[Path]:
    """Of `bench.simulate`, one a device: sustained rates by workload and contender."""
    rows, paths = source.figures["cases"], []
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        figure = _draw_rates(Path(device).stem, here, source)
        paths.append(style.save(figure, folder / f"{source.name}_{Path(device).stem}.png"))
    return paths


def _draw_rates(device: str, rows: list[dict[str, Any]], source: Result) -> Figure:
    found = {key: summarise(rows, key) for key in ("a", "b")}
    workloads = list(found["a"])
    names = list(dict.fromkeys(row["contender"] for row in rows))
    lines = -(-len(workloads) // _COLUMNS)
    size = (12, lines * (0.22 * len(names) + 1.1) + 0.8)
    figure, grid = style.new_grid(lines, _COLUMNS, size, share="row")
    panes = [axes for row in grid for axes in row]
    for axes, workload in zip(panes, workloads, strict=False):
        # Where both are the same the small one lies in the large one.
        for key, colour, mark, large in (
            ("a", style.BLUE, "o", 8),
            ("b", style.VERMILLION, "D", 4),
        ):
            rates = found[key][workload]["rates"]
            shown = [(rates[name], place) for place, name in enumerate(names) if name in rates]
            axes.plot(*zip(*shown, strict=True), mark, color=colour, markersize=large)
            if axes is panes[0]:
                style.name_point(axes, shown[-1], f"({key})", colour, _SIDES[key])
        refusing = found["a"][workload]["rejecting"]
        axes.set_yticks(range(len(names)), [name + " *" * (name in refusing) for name in names])
        axes.tick_params("y", length=0, labelleft=True)
        axes.set_ylim(len(names) - 0.5, -0.7)
        top = max(rate for key in found for rate in found[key][workload]["rates"].values())
        axes.set_xlim(-0.04 * top, 1.08 * top)
        axes.set_title(workload)
        axes.set_xlabel("requests/s")
    for axes in panes[len(workloads) :]:
        axes.set_visible(False)
    style.describe(
        figure,
        f"SIMULATED: rates that contenders sustain, {device}",
        "Circles: (a) all is done in time; diamonds: (b) short requests in time, too. * refuses "
        "requests: its rate leaves them out.\n" + style.origin([source]),
    )
    return figure


_SIDES = {"a": "right", "b": "left"}
