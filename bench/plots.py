"""Figures of results: bench/figures/NAME.png, from bench/results/NAME.json or from a replay."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy  # noqa: E402
from matplotlib import pyplot  # noqa: E402

from bench.layout_record import LayoutRecord  # noqa: E402
from bench.replay_metrics import Objective, Outcome  # noqa: E402
from bench.simulation.tables import summarise  # noqa: E402

FIGURES = Path(__file__).parent / "figures"
_BINS = 60
_GAP_BAR = 1.5
_GAP_TICKS = (0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8)
_TRANSFORM_FIGURES = {
    "KV of a merge": "transform_kv",
    "weights of a split": "transform_weights",
    "overall of a merge": "transform_overall_merge",
    "overall of a split": "transform_overall_split",
}


def _save(figure: Any, name: str) -> Path:
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def draw_replay(
    name: str,
    title: str,
    outcomes: Sequence[Outcome],
    objective: Objective,
    layout: LayoutRecord | None,
) -> Path:
    """Of a replay: TTFT over time, distributions, token rates, and the layout if it is known."""
    done = [outcome for outcome in outcomes if outcome.kind == "done"]
    seconds = max([o.last for o in done] + [o.request.arrival for o in outcomes]) or 1.0
    panels = 3 if layout is None else 4
    figure, axes = pyplot.subplots(
        panels, 1, figsize=(10, 2.6 * panels), layout="constrained", squeeze=False
    )
    figure.suptitle(title, fontsize=9, wrap=True)
    _draw_ttft(axes[0][0], done, outcomes, objective)
    _draw_distributions(axes[1][0], done)
    _draw_rates(axes[2][0], done, seconds)
    if layout is not None:
        _draw_layout(axes[3][0], layout, seconds)
    for axis in (axes[0][0], *(row[0] for row in axes[2:])):
        axis.set_xlim(0, seconds * 1.01)
        axis.set_xlabel("s")
    return _save(figure, name)


def _draw_ttft(
    axis: Any, done: Sequence[Outcome], outcomes: Sequence[Outcome], objective: Objective
) -> None:
    for label, is_long in (("short", False), ("long", True)):
        shown = [o for o in done if objective.is_long(o.request) == is_long]
        arrivals = [o.request.arrival for o in shown]
        axis.plot(arrivals, [o.ttft for o in shown], ".", label=label, alpha=0.6)
    lost = [o.request.arrival for o in outcomes if o.kind != "done"]
    axis.plot(lost, [objective.ttft] * len(lost), "x", label="rejected or failed", color="black")
    axis.axhline(objective.ttft, linewidth=0.8, color="grey")
    axis.set_yscale("log")
    axis.set_ylabel("TTFT, s")
    axis.legend(fontsize=7)


def _draw_distributions(axis: Any, done: Sequence[Outcome]) -> None:
    for label, values in (
        ("TTFT", [o.ttft for o in done]),
        ("TPOT", [o.tpot for o in done if o.tpot is not None]),
        ("E2E", [o.e2e for o in done]),
    ):
        axis.plot(
            numpy.sort(values), numpy.arange(1, len(values) + 1) / max(1, len(values)), label=label
        )
    axis.set_xscale("log")
    axis.set_xlabel("s, distribution over completed requests")
    axis.set_ylabel("share")
    axis.legend(fontsize=7)


def _draw_rates(axis: Any, done: Sequence[Outcome], seconds: float) -> None:
    edges = numpy.linspace(0, seconds, _BINS + 1)
    for label, times, tokens in (
        ("tokens that arrive", [o.request.arrival for o in done], [o.request.tokens for o in done]),
        (
            "tokens of completed requests",
            [o.last for o in done],
            [o.prompt_tokens + o.completion_tokens for o in done],
        ),
    ):
        heights, _ = numpy.histogram(times, edges, weights=tokens)
        axis.stairs(heights / edges[1], edges, label=label)
    axis.set_ylabel("tokens/s")
    axis.legend(fontsize=7)


def _draw_layout(axis: Any, layout: LayoutRecord, seconds: float) -> None:
    """One bar a rank and layout, coloured by its degree."""
    ends = [time for time, _ in layout.changes[1:]] + [seconds]
    highest = max(max(degrees) for _, degrees in layout.changes)
    colours = pyplot.get_cmap("viridis")
    seen: set[int] = set()
    for (start, degrees), end in zip(layout.changes, ends, strict=True):
        for rank, degree in enumerate(degrees):
            axis.barh(
                rank, end - start, left=start, height=0.9,
                color=colours(1 - degree / highest / 1.2),
                label=None if degree in seen else f"degree {degree}",
            )  # fmt: skip
            seen.add(degree)
    axis.set_ylabel("rank")
    axis.legend(fontsize=7, loc="upper right")


def draw_stagger(result: Path) -> None:
    """Of `bench.stagger`: how long gaps between tokens are, merges left and splits right."""
    data = json.loads(result.read_text())
    figures = data["figures"]
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
        axes.axvline(_GAP_BAR, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlim(0.7, max(2.0, 1.1 * longest))
        axes.set_title(f"{kind}: gaps that overlap it", fontsize=9)
        axes.set_xticks(_GAP_TICKS, [f"{tick:g}" for tick in _GAP_TICKS], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("gap, in median gaps of the slower degree")
        axes.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel("% of the gaps that are not longer")
    medians = ", ".join(f"{gap:.0f} ms at {d}" for d, gap in figures["median_gap_ms"].items())
    figure.suptitle(
        f"{figures['settings']['workers']} workers, median gap {medians}; dashed: {_GAP_BAR} x; "
        f"{data['commit']}, {data['machine']['cores']} cores",
        fontsize=9,
    )
    _save(figure, data["name"])


def draw_transform(result: Path) -> None:
    """Of `bench.transform`, the paper's Figures 9, 10 and 11: a row a model shape, a column a
    degree."""
    data = json.loads(result.read_text())
    cases = data["figures"]["cases"]
    for what, name in _TRANSFORM_FIGURES.items():
        measured_on = f"{data['commit']}, {data['machine']['cores']} cores"
        _save(_draw_costs(cases, what, measured_on), name)


def _draw_costs(cases: list[dict[str, Any]], what: str, measured_on: str) -> Any:
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


def draw_simulation(result: Path) -> None:
    """Of `bench.simulate`, one a device: sustained rates by workload and contender relative to
    `amoeba`, (a) above, (b) below."""
    data = json.loads(result.read_text())
    rows = data["figures"]["cases"]
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        figure = _draw_rates_of(device, here, data["commit"])
        _save(figure, f"{result.stem}_{Path(device).stem}")


def _draw_rates_of(device: str, rows: list[dict[str, Any]], commit: str) -> Any:
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
