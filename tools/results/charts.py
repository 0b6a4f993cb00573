"""The five charts of docs/results.md: each answers a question that a user has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.charts import style
from bench.charts.style import Span
from bench.results_file import Result, read
from tools.results.change import load_of, quiet_gaps, slower_gap_ms
from tools.results.lost import WAYS
from tools.results.memory import tokens_that_fit
from tools.results.numbers import fixed
from tools.results.simulated import tables_of, workload_title
from tools.results.speed import PAIRS

FOLDER = Path(__file__).parents[2] / "docs/figures"
_COLOURS = dict(zip(WAYS, (style.BLUE, style.VERMILLION), strict=True))
# Degree and live tokens.
_SHOWN = (2, 32768)
_WAYS = {
    "all at once": ("ours, all at once", style.VERMILLION),
    "staggered, overlap (Amoeba)": ("ours, staggered", style.BLUE),
    "Basic, Partial Swap": ('"Basic": a second pool', style.PURPLE),
    "Seesaw, Partial Swap": ("Seesaw's way: by the host", style.ORANGE),
}
_RIVALS = {
    "best static": ("best static", style.BLUE, ("o", 9), "right"),
    "2xTP4": ("2xTP4", style.VERMILLION, ("s", 6), "left"),
    "round_robin": ("round robin", style.GREEN, ("D", 5), "above"),
}
# Where they are far enough apart.
_NAMED_AT = "azure2023 1%"


@dataclass(frozen=True)
class Chart:
    """`draw` is given what it is drawn from, in the order of `files`."""

    files: tuple[str, ...]
    draw: Callable[..., Figure]

    @property
    def sources(self) -> list[Result]:
        return [read(name) for name in self.files]

    @property
    def stamp(self) -> str:
        """Other data have another one."""
        text = json.dumps([source.figures for source in self.sources], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw_changed() -> list[str]:
    """Draw all charts; the names of those files that became other ones."""
    changed = []
    for name, chart in CHARTS.items():
        path = FOLDER / f"{name}.svg"
        old = path.read_bytes() if path.exists() else b""
        style.save(chart.draw(*chart.sources), path, chart.stamp)
        if path.read_bytes() != old:
            changed.append(path.name)
    return changed


def draw_gaps(*sources: Result) -> Figure:
    figure, [row] = style.new_grid(1, len(sources), (11, 3.2), share="row")
    panels = [_gaps_of(source) for source in sources]
    longest = max(span.found["max"] for spans in panels for span in spans)
    for axes, source, spans in zip(row, sources, panels, strict=True):
        style.draw_spans(axes, spans)
        axes.set_xlim(0, 1.15 * longest)
        style.draw_bound(axes, 1, "")
        load = load_of(source).replace("each, ", "each,\n")
        axes.set_title(f"{load}\n1 = {fixed(slower_gap_ms(source))} ms")
        axes.set_xlabel("longest gap, in median gaps")
    rounds = ", ".join(str(source.figures["settings"]["rounds"]) for source in sources)
    style.describe(
        figure,
        "The longest gap between two tokens of a stream while workers merge or split",
        "Dot: median; line: shortest to longest of "
        f"{rounds} changes of each kind. 1 is the median gap at the slower degree. Left out: "
        f"prompts, since all streams decode.\n{style.origin(sources)}",
    )
    return figure


def _gaps_of(source: Result) -> list[Span]:
    quiet, text = quiet_gaps(source)
    spans = [Span("no change", quiet, style.GREY, text.split(" (")[0])]
    for kind in ("merge", "split"):
        for way, colour in _COLOURS.items():
            found = source.figures[f"{way} {kind}"]["longest_gap_of_median_gap"]
            spans.append(Span(f"{kind}, {way}", found, colour, fixed(found["median"], 2)))
    return spans


def draw_capacity(source: Result) -> Figure:
    figure, [[axes]] = style.new_grid(1, 1, (9, 3.6))
    place, labels = 0, []
    for workers in (4, 2):
        own, merged = tokens_that_fit(source.figures[f"{workers} workers"])
        pools = workers * own
        axes.barh(place, pools, 0.6, color=style.BLUE)
        axes.barh(place, merged - pools, 0.6, left=pools, color=style.GREEN)
        axes.barh(place + 1, own, 0.6, color=style.BLUE)
        style.name_end(
            axes,
            (merged, place),
            (
                (fixed(merged), style.BLACK),
                (f"{fixed(pools)} of the workers' own pools", style.BLUE),
                (f"{fixed(merged - pools)} where weights were", style.GREEN),
            ),
        )
        style.name_end(axes, (own, place + 1), ((fixed(own), style.BLACK),))
        labels += [f"{workers} workers merged", f"each of {workers} workers alone"]
        place += 2
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(0, 1.3 * axes.dataLim.xmax)
    axes.tick_params("y", length=0)
    axes.set_xlabel("tokens that a request can have")
    axes.xaxis.set_major_formatter(lambda value, _: fixed(value))
    style.describe(
        figure,
        "A merge makes room for requests that no worker could hold",
        "Left out: all weights but those of the MLP, which stay whole on every worker and free "
        f"nothing. Pools are made small for this.\n{style.origin([source])}",
    )
    return figure


def draw_ways(transform: Result, restart: Result) -> Figure:
    [case] = [
        case
        for case in transform.figures["cases"]
        if case["shape"].startswith("SmolLM2") and (case["degree"], case["live_tokens"]) == _SHOWN
    ]
    figure, [row] = style.new_grid(1, 2, (11, 2.9), share="row")
    again = {key: 1e3 * restart.figures["restart_s"][key] for key in ("min", "median", "max")}
    for axes, kind in zip(row, ("merge", "split"), strict=True):
        spans = []
        for way, (title, colour) in _WAYS.items():
            found = case["ms"][f"overall of a {kind}: {way}"]
            spans.append(Span(title, found, colour, f"{fixed(found['median'])} ms"))
        text = f"{fixed(again['median'])} ms"
        spans.append(Span("restart of the server", again, style.GREY, text))
        style.draw_spans(axes, spans)
        axes.set_xscale("log")
        axes.set_xlim(50, 4 * again["max"])
        style.set_ticks(axes, (100, 1_000, 10_000, 100_000))
        axes.set_title(f"{kind} of two workers")
        axes.set_xlabel("ms, logarithmic")
    live = fixed(restart.figures["live_tokens_per_worker"])
    style.describe(
        figure,
        "What a change costs, by way",
        f"{case['shape']}, {fixed(case['live_tokens'])} live tokens: time beyond that of the same "
        "steps without a change. Dot: median; line: range. Left out: for ours and its rivals the "
        f"router's vote;\nfor the restart ({live} live tokens a worker) the requests that are lost "
        f"and the prompts to be computed again.  {style.origin([transform, restart])}",
    )
    return figure


def draw_throughput(*sources: Result) -> Figure:
    figure, [[axes]] = style.new_grid(1, 1, (9, 2.9))
    spans = []
    for source, (ours, stock) in zip(sources, PAIRS.values(), strict=True):
        found = source.figures["ratio"]
        label = f"{ours}, beside {stock.replace('`', '').removesuffix(', gloo')}"
        colour = style.BLUE if "degree 1" in ours else style.GREEN
        text = f"{fixed(found['median'], 2)}, {found['runs']} pairs"
        spans.append(Span(label, found, colour, text))
    style.draw_spans(axes, spans)
    low = min(span.found["min"] for span in spans)
    high = max(span.found["max"] for span in spans)
    axes.set_xlim(low - 0.05, high + 0.08)
    style.draw_bound(axes, 1, "as fast as stock SGLang")
    axes.set_xlabel("tokens/s of a pair of runs, ours over stock (the axis does not begin at 0)")
    style.describe(
        figure,
        "Throughput of bench_serving beside stock SGLang",
        "Dot: median; line: lowest to highest pair. Left out: layouts that change; and whether a "
        f"degree is faster, since all share two cores.\n{style.origin(sources)}",
    )
    return figure


def draw_simulated(source: Result) -> Figure:
    by_criterion = tables_of(source)
    figure, [row] = style.new_grid(1, 2, (11, 4.4), share="row")
    titles = ("(a) all is done in time", "(b) and short TTFT p99 < 10 s, TPOT p99 < 100 ms")
    for axes, found, title in zip(row, by_criterion.values(), titles, strict=True):
        _draw_rates(axes, found)
        axes.set_title(title, pad=18)
        axes.set_xlabel("requests/s over amoeba's, logarithmic")
    row[0].set_xlim(0.35, 1.35)
    style.set_ticks(row[0], (0.4, 0.5, 0.6, 0.8, 1))
    row[1].set_xlim(0.03, 1.8)
    style.set_ticks(row[1], (0.05, 0.1, 0.2, 0.5, 1))
    style.describe(
        figure,
        "SIMULATED: the rate that each policy sustains, beside amoeba's",
        "Nothing was measured: 8 workers of a 32B model on 96 GB, h100-96-32b-tp-loss, means of 3 "
        "seeds. Left out: layouts of several degrees, and static ones that refuse requests\n"
        "(the best static one serves all). " + style.origin([source]),
    )
    return figure


def _draw_rates(axes: Axes, found: dict[str, dict]) -> None:
    """A row a workload, a dot a rival."""
    places = dict(zip(found, range(len(found) - 1, -1, -1), strict=True))
    style.draw_bound(axes, 1, "amoeba")
    for rival, (label, colour, (mark, size), side) in _RIVALS.items():
        shares = {name: 1 / one["ratios"][rival] for name, one in found.items()}
        axes.plot(shares.values(), places.values(), mark, color=colour, markersize=size)
        style.name_point(axes, (shares[_NAMED_AT], places[_NAMED_AT]), label, colour, side)
    axes.set_yticks(list(places.values()), [workload_title(name) for name in found])
    axes.tick_params("y", length=0)
    axes.set_xscale("log")


CHARTS = {
    "gaps": Chart(("stagger_n2", "stagger_n4", "stagger_n2_many_tokens"), draw_gaps),
    "capacity": Chart(("long_request",), draw_capacity),
    "ways": Chart(("transform", "transform_cost"), draw_ways),
    "throughput": Chart(tuple(PAIRS), draw_throughput),
    "simulated": Chart(("simulation_tp_loss",), draw_simulated),
}
