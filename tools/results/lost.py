"""Is anything lost or changed while layouts change?"""

from __future__ import annotations

from typing import Any

from bench.results_file import Result, read
from tools.results.numbers import fixed, spread, tiny
from tools.results.table import Table

WAYS = {"staggered": "", "all at once": "_all_at_once"}
_EVENTS = ("prefill", "decode", "arrived", "finished", "aborted", "retracted")


def read_streams() -> dict[tuple[int, str], Result]:
    """The runs that cycle through all layouts under load, by workers and way."""
    return {
        (workers, way): read(f"equality_n{workers}{suffix}")
        for workers in (2, 4)
        for way, suffix in WAYS.items()
    }


def equality() -> Table:
    streams = read_streams()
    rows = [
        (
            f"{workers} workers, {way}",
            fixed(source.figures["transformations"]),
            fixed(source.figures["requests"]),
            fixed(len(source.figures["errors"])),
            fixed(len(source.figures["differing"])),
        )
        for (workers, way), source in streams.items()
    ]
    sources = list(streams.values())
    return Table(
        name="equality",
        question="Is a completion lost or changed while the layout cycles through every change?",
        columns=("layers move", "transformations", "completions", "lost or failed", "different"),
        rows=tuple(rows),
        noise=f"{sources[0].figures['concurrency']} greedy streams at a time, compared token for "
        "token with those of the untouched server; one run each.",
        sources=tuple(sources),
    )


def gaps_under_load() -> Table:
    streams, rows = read_streams(), []
    for (workers, way), source in streams.items():
        found = source.figures
        rows.append(
            (
                f"{workers} workers, {way}",
                spread(found["longest_gap_over_a_transformation_s"], 2),
                fixed(found["transforming"]["gap_median_s"], 2),
                fixed(found["untouched"]["gap_median_s"], 2),
                fixed(found["untouched"]["gap_max_s"], 2),
            )
        )
    return Table(
        name="gaps_under_load",
        question="How long do streams pause under that load, in seconds?",
        columns=(
            "layers move",
            "longest gap over a transformation, median (range)",
            "median gap of the run",
            "median gap, untouched server",
            "longest gap, untouched server",
        ),
        rows=tuple(rows),
        noise="Over all transformations of the run; one run each.",
        sources=tuple(streams.values()),
    )


def boundaries() -> Table:
    sources = [read(f"boundaries_n{workers}") for workers in (2, 4)]
    rows = []
    for source in sources:
        found = source.figures
        merge, split = found["events"]["merge"], found["events"]["split"]
        # The boundary falls from the last layer to 0 in a merge, and rises from 0 in a split: no
        # step runs between where it starts and the first move.
        least = [min(merge[event][:-1] + split[event][1:]) for event in _EVENTS]
        rows.append(
            (
                f"{found['settings']['workers']} workers",
                fixed(found["transformations"]),
                fixed(found["requests"]),
                fixed(len(found["errors"])),
                fixed(len(found["differing"])),
                *map(fixed, least),
                tiny(found["log_probabilities_worst_relative"]),
            )
        )
    return Table(
        name="boundaries",
        question="Is anything lost at any boundary between layers that have moved and others?",
        columns=(
            "one layer a step",
            "transformations",
            "completions",
            "lost or failed",
            "different",
            *(f"{event}, at least" for event in _EVENTS),
            "log-probabilities differ by at most, of the largest",
        ),
        rows=tuple(rows),
        noise="At least: how often that happened to requests at the boundary where it was rarest; "
        "all layers, slots audited; one run each.",
        sources=tuple(sources),
    )


def cycles() -> Table:
    sources = [read(f"soak_{name}") for name in ("6_layers", "30_layers", "retractions")]
    return Table(
        name="cycles",
        question="Does a server grow or slow down over hundreds of merges and splits?",
        columns=(
            "run",
            "transformations",
            "requests retracted",
            "failed",
            "memory of the two workers",
            "descriptors of each",
            "shared memory, bytes",
            "decode step before the first merge, at the end, ms",
            "prefill chunk before, across the first merge, at the end, s",
        ),
        rows=tuple(_cycles_of(source.figures) for source in sources),
        noise="One run each, with aborts, disconnects, long prefills and idle spells; memory after "
        "the first cycles and at the end.",
        sources=tuple(sources),
    )


def _cycles_of(found: dict[str, Any]) -> tuple[str, ...]:
    settings, growth, probes = (
        found[key] for key in ("settings", "growth_per_100_cycles", "probes")
    )
    workers = [one for name, one in growth.items() if name.startswith("worker")]
    memory = [one["rss_mib"]["last"] / one["rss_mib"]["first"] - 1 for one in workers]
    descriptors = [one["fds"]["last"] - one["fds"]["first"] for one in workers]
    shared = growth["machine"]["shm_bytes"]
    across = probes["prefill across the first merge"]["seconds_per_chunk"]
    before, after = (_step_times(probes[when]) for when in ("before the first merge", "at the end"))
    return (
        f"{settings.get('layers', 'all')} layers, {settings['clients']} clients, "
        f"{found['cycles']} cycles",
        fixed(found["transformations"]["seconds"]["count"]),
        fixed(found["retractions"]["requests"]),
        fixed(len(found["problems"]) + len(found["request_problems"])),
        " and ".join(f"{100 * share:+.1f} %" for share in memory),
        " and ".join(map(fixed, descriptors)),
        fixed(shared["last"] - shared["first"]),
        f"{fixed(before[0], 1)}, {fixed(after[0], 1)}",
        f"{fixed(before[1], 2)}, {fixed(across, 2)}, {fixed(after[1], 2)}",
    )


def _step_times(probe: dict[str, Any]) -> tuple[float, float]:
    """Of a decode step in ms and of a prefill chunk in s; older files have other names."""
    if "decode_ms" in probe:
        return probe["decode_ms"], probe["prefill_s_per_chunk"]
    return probe["decode"]["median_ms"], probe["prefill"]["seconds_per_chunk"]


def mutants() -> Table:
    source = read("world_mutants")
    found = source.figures
    rows = []
    for title, key, is_fault in (
        ("found before by reading the code", "faults", True),
        ("of our own", "own", False),
    ):
        mine = {
            name: one
            for name, one in found["mutants"].items()
            if name.startswith("fault") == is_fault
        }
        seconds = [one["cpu_s"] for one in mine.values() if one["kind"]]
        missed = {name: one["cpu_s"] for name, one in mine.items() if not one["kind"]}
        rows.append(
            (
                title,
                found[key],
                f"{fixed(min(seconds), 1)} to {fixed(max(seconds), 1)}",
                ", ".join(f"`{name}` ({fixed(cpu)} s)" for name, cpu in missed.items()) or "none",
            )
        )
    return Table(
        name="mutants",
        question="Would the tests over a virtual clock notice a fault that is put into the code?",
        columns=("faults", "noticed", "after seconds of a processor", "not noticed, tried for"),
        rows=tuple(rows),
        noise="Each fault once, histories of seeds in order.",
        sources=(source,),
    )
