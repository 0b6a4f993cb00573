"""Pictures of a replay: bench/figures/NAME.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy  # noqa: E402
from matplotlib import pyplot  # noqa: E402

from bench.layout_record import LayoutRecord  # noqa: E402
from bench.replay_metrics import Objective, Outcome  # noqa: E402

FIGURES = Path(__file__).parent / "figures"
_BINS = 60


def draw(
    name: str,
    title: str,
    outcomes: Sequence[Outcome],
    objective: Objective,
    layout: LayoutRecord | None,
) -> Path:
    """TTFT over time, distributions, token rates, and the layout if it is known."""
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
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


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
