"""Which policy, on servers that compute or are EMULATED?"""

from __future__ import annotations

from typing import Any

from bench.results_file import read
from tools.results.numbers import fixed, median_and_most
from tools.results.table import Table

_TITLES = {"reference": "pools that hold all, degree 1"}


def replay() -> Table:
    rows, sources = [], []
    for workers in (2, 4):
        source = read(f"replay_cpu_n{workers}")
        sources.append(source)
        for case, found in source.figures.items():
            if isinstance(found, dict) and "ttft_s" in found:
                rows.append((f"{workers} workers, {_TITLES.get(case, case)}", *_replayed(found)))
    workload = sources[0].figures["workload"]
    too_long = sources[0].figures["reference"]["requests"]["long"]
    return Table(
        name="replay",
        question="Which policy serves short requests soonest when some fit no worker?",
        columns=(
            "server",
            "done",
            "refused",
            "TTFT of short requests, median, s",
            "p99, s",
            "transformations a minute",
            "in all, s",
            "outputs that differ",
            "tokens prefilled again",
            "SIMULATED over measured throughput",
            "SIMULATED over measured median TTFT",
        ),
        rows=tuple(rows),
        noise=f"Mooncake conversation, thinned and scaled: {workload['requests']} requests in "
        f"{fixed(workload['span_s'])} s, of which {too_long} fit no worker; one "
        "replay each.",
        sources=tuple(sources),
    )


def _replayed(found: dict[str, Any]) -> tuple[str, ...]:
    requests, short = found["requests"], found["ttft_s"]["short"]
    if "layout" in found:
        changes = found["layout"]["transformations"]
        moved = (fixed(changes["per_minute"], 1), fixed(changes["seconds_in_them"], 1))
    else:
        moved = ("restarts", fixed(sum(one["seconds"] for one in found["restarts"]), 1))
    simulated = found.get("SIMULATED")
    ratios = [fixed(one, 2) for one in simulated["ratio"].values()] if simulated else ["", ""]
    return (
        fixed(requests["done"]),
        fixed(requests["rejected"]),
        fixed(short["p50"], 1),
        fixed(short["p99"], 1),
        *moved,
        fixed(found["outputs_that_differ"]),
        fixed(found["work"]["prefilled_again"]) if "work" in found else "",
        *ratios,
    )


def emulated() -> Table:
    source = read("validation")
    rows = []
    for case in source.figures["cases"]:
        mine, theirs, ratio = case["emulated"], case["simulated"], case["ratio"]
        rows.append(
            (
                case["case"],
                fixed(mine["requests_per_s"], 2),
                fixed(theirs["requests_per_s"], 2),
                fixed(ratio["requests_per_s"], 2),
                fixed(mine["short_ttft_median"], 2),
                fixed(theirs["short_ttft_median"], 2),
                fixed(ratio["short_ttft_median"], 2),
                fixed(mine["short_ttft_p99"], 2),
                fixed(theirs["short_ttft_p99"], 2),
            )
        )
    settings = source.figures["settings"]
    head = ("EMULATED", "SIMULATED")
    return Table(
        name="emulated",
        question="How near does the simulator come to whole EMULATED servers?",
        columns=(
            "policy and requests",
            *(f"{kind}, requests/s" for kind in head),
            "ratio",
            *(f"{kind}, median TTFT of short requests, s" for kind in head),
            "ratio",
            *(f"{kind}, its p99, s" for kind in head),
        ),
        rows=tuple(rows),
        noise=f"{settings['rows']} requests each of {settings['trace'].removesuffix('.csv')}, "
        f"{settings['workers']} workers, {settings['device']}; one run each.",
        sources=(source,),
    )


def decisions() -> Table:
    source = read("decision_time")
    rows = []
    for policy, found in source.figures["microseconds"].items():
        cells = [
            median_and_most(found[kind], 0) if kind in found else ""
            for kind in ("place", "admit", "change")
        ]
        rows.append((f"`{policy}`", *cells))
    settings = source.figures["settings"]
    runs = found["place"]["runs"]
    return Table(
        name="decisions",
        question="How long does the router take to decide, in us?",
        columns=(
            "policy",
            "home of a short request",
            "that of the oldest long one",
            "next transformation",
        ),
        rows=tuple(rows),
        noise=f"{settings['workers']} workers and {fixed(settings['waiting'])} long requests "
        f"waiting; median (longest) of {fixed(runs)} decisions of each kind.",
        sources=(source,),
    )
