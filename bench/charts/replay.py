"""The figure of a replay, drawn from what came of every request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from bench.charts import style
from bench.layout_record import LayoutRecord
from bench.replay_metrics import Objective, Outcome

_BINS = 60
# Of degree 1, 2, 4 and so on.
_DEGREES = (style.PALE, style.SKY, style.BLUE, style.GREEN, style.VERMILLION, style.BLACK)


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
    figure, grid = style.new_grid(panels, 1, (10, 2.6 * panels))
    [ttft], [distributions], [rates], *rest = grid
    _draw_ttft(ttft, done, outcomes, objective)
    _draw_distributions(distributions, done)
    _draw_rates(rates, done, seconds)
    if layout is not None:
        _draw_layout(rest[0][0], layout, seconds)
    for axes in (ttft, rates, *(row[0] for row in rest)):
        axes.set_xlim(0, seconds * 1.15)
        axes.set_xlabel("time since the first request, s")
    style.describe(
        figure,
        title,
        "Left out: requests that did not end, but for the crosses; tokens a second are those of "
        "requests that ended.",
    )
    return style.save(figure, style.FIGURES / f"{name}.png")


def _draw_ttft(
    axes: Axes, done: Sequence[Outcome], outcomes: Sequence[Outcome], objective: Objective
) -> None:
    lost = [o.request.arrival for o in outcomes if o.kind != "done"]
    # At the bar: they have no time.
    series = [("refused or failed", lost, [objective.ttft] * len(lost), style.BLACK, "x")]
    for label, is_long, colour, mark in (
        ("short", False, style.BLUE, "o"),
        ("long", True, style.VERMILLION, "s"),
    ):
        shown = [o for o in done if objective.is_long(o.request) == is_long]
        arrivals = [o.request.arrival for o in shown]
        series.append((label, arrivals, [o.ttft for o in shown], colour, mark))
    axes.set_yscale("log")
    for height, (label, arrivals, times, colour, mark) in zip((0.9, 0.6, 0.3), series, strict=True):
        axes.plot(arrivals, times, mark, color=colour, markersize=4, alpha=0.7)
        if arrivals:
            _name(axes, height, label, colour)
    axes.axhline(objective.ttft, linewidth=0.8, color=style.GREY, linestyle="--")
    axes.set_ylabel("TTFT, s, logarithmic")


def _draw_distributions(axes: Axes, done: Sequence[Outcome]) -> None:
    axes.set_xscale("log")
    for label, values, colour, share in (
        ("TTFT", [o.ttft for o in done], style.BLUE, 0.8),
        ("TPOT", [o.tpot for o in done if o.tpot is not None], style.VERMILLION, 0.5),
        ("E2E", [o.e2e for o in done], style.GREEN, 0.2),
    ):
        if not values:
            continue
        ordered = np.sort(values)
        axes.plot(ordered, 100 * np.arange(1, len(values) + 1) / len(values), color=colour)
        at = ordered[int(share * (len(values) - 1))]
        style.name_point(axes, (at, 100 * share), label, colour)
    axes.set_xlabel("time, s, logarithmic")
    axes.set_ylabel("completed requests, %")


def _draw_rates(axes: Axes, done: Sequence[Outcome], seconds: float) -> None:
    edges = np.linspace(0, seconds, _BINS + 1)
    for label, times, tokens, colour, height in (
        (
            "arrive",
            [o.request.arrival for o in done],
            [o.request.tokens for o in done],
            style.VERMILLION,
            0.9,
        ),
        (
            "complete",
            [o.last for o in done],
            [o.prompt_tokens + o.completion_tokens for o in done],
            style.BLUE,
            0.6,
        ),
    ):
        heights, _ = np.histogram(times, edges, weights=tokens)
        axes.stairs(heights / edges[1], edges, color=colour)
        _name(axes, height, label, colour)
    axes.set_ylabel("tokens/s")


def _draw_layout(axes: Axes, layout: LayoutRecord, seconds: float) -> None:
    """One bar a rank and layout, coloured by its degree."""
    ends = [time for time, _ in layout.changes[1:]] + [seconds]
    seen: set[int] = set()
    for (start, degrees), end in zip(layout.changes, ends, strict=True):
        for rank, degree in enumerate(degrees):
            axes.barh(rank, end - start, left=start, height=0.9, color=_colour_of(degree))
        seen.update(degrees)
    for number, degree in enumerate(sorted(seen)):
        # A pale word could not be read.
        colour = style.GREY if degree == 1 else _colour_of(degree)
        _name(axes, 0.9 - 0.25 * number, f"degree {degree}", colour)
    axes.set_yticks(range(len(layout.changes[0][1])))
    axes.set_ylabel("rank")


def _colour_of(degree: int) -> str:
    return _DEGREES[degree.bit_length() - 1]


def _name(axes: Axes, height: float, label: str, colour: str) -> None:
    """Words at the right edge, which no time reaches."""
    axes.text(
        0.885, height, label, color=colour, fontsize=8, va="center", transform=axes.transAxes,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip
