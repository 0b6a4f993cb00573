"""What does a change cost, and what do streams feel?"""

from __future__ import annotations

from typing import Any

from bench.results_file import Result, read
from tools.results.lost import WAYS, read_streams
from tools.results.numbers import fixed, median_and_most, spread
from tools.results.table import Table

_STAGGER = ("stagger_n2", "stagger_n4", "stagger_n2_many_tokens")
_CHANGES = tuple((kind, way) for kind in ("merge", "split") for way in WAYS)


def cost() -> Table:
    source = read("transform_cost")
    found = source.figures
    live = fixed(found["live_tokens_per_worker"])
    ratio = found["restart_over_median_transformation"]
    moved = f"{fixed(found['kv_bytes_moved'] / 1e6)} MB of KV change worker"
    rows = (
        (f"merge of two workers with {live} live tokens each; {moved}", _ms(found["merge_s"])),
        ("their split, which also reads weights", _ms(found["split_s"])),
        ("restart of the server, which serves nobody meanwhile", _ms(found["restart_s"])),
        ("restart over the median change, times", spread(ratio)),
        (
            "fastest restart over the slowest change, times",
            fixed(found["fastest_restart_over_slowest_transformation"]),
        ),
    )
    return Table(
        name="cost",
        question="What does a change cost, beside a restart?",
        columns=("what", "ms, median (range)"),
        rows=rows,
        noise=f"{found['merge_s']['runs']} merges, {found['split_s']['runs']} splits and "
        f"{found['restart_s']['runs']} starts of a server without other work.",
        sources=(source,),
    )


def _ms(seconds: dict[str, float]) -> str:
    return spread(seconds, scale=1e3)


def gaps() -> Table:
    sources = [read(name) for name in _STAGGER]
    rows = [
        (
            load_of(source),
            fixed(slower_gap_ms(source)),
            *(
                median_and_most(source.figures[f"{way} {kind}"]["longest_gap_of_median_gap"])
                for kind, way in _CHANGES
            ),
            quiet_gaps(source)[1],
        )
        for source in sources
    ]
    return Table(
        name="gaps",
        question="What is the longest gap between tokens that a stream sees in a change, in median "
        "gaps of the slower degree?",
        columns=(
            "load",
            "that median gap, ms",
            *(f"{kind}, {way}" for kind, way in _CHANGES),
            "no change",
        ),
        rows=tuple(rows),
        noise=f"Median (longest) of {_rounds(sources)} changes of each kind; no change: longest "
        "gap of every span between changes, or of them all.",
        sources=tuple(sources),
        chart="gaps.svg",
    )


def slower_gap_ms(source: Result) -> float:
    return max(source.figures["median_gap_ms"].values())


def quiet_gaps(source: Result) -> tuple[dict[str, float], str]:
    """The longest gap without a change, in median gaps: as numbers and in words."""
    found = source.figures.get("longest_gap_inside_a_quiet_span_of_median_gap")
    if found is not None:
        return found, median_and_most(found)
    # An older file counts gaps that reach into a change to the span before it.
    most = max(source.figures["longest_gap_ms"].values()) / slower_gap_ms(source)
    return {"max": most}, f"at most {fixed(most, 2)}"


def tokens() -> Table:
    sources = [read(name) for name in _STAGGER]
    rows = [
        (
            load_of(source),
            *(
                spread(source.figures[f"{way} {kind}"]["tokens_of_slower_degree"], 2)
                for kind, way in _CHANGES
            ),
        )
        for source in sources
    ]
    return Table(
        name="tokens",
        question="How many tokens are made in a change, of what the slower degree makes in that "
        "time?",
        columns=("load", *(f"{kind}, {way}" for kind, way in _CHANGES)),
        rows=tuple(rows),
        noise=f"Median (range) of {_rounds(sources)} changes of each kind.",
        sources=tuple(sources),
    )


def load_of(source: Result) -> str:
    settings = source.figures["settings"]
    cached = f", {fixed(settings['cached_tokens'])} cached tokens a worker"
    streams = settings["streams"]
    return f"{settings['workers']} workers, {streams} stream{'s' * (streams > 1)} each" + (
        cached if settings["cached_tokens"] else ""
    )


def _rounds(sources: list[Result]) -> str:
    each = [str(source.figures["settings"]["rounds"]) for source in sources]
    return ", ".join(each[:-1]) + f" and {each[-1]}"


def lock_step() -> Table:
    streams = read_streams()
    sources = list(streams.values())
    rows: list[tuple[str, ...]] = [
        (
            f"{workers} workers, 32 chats, layers move {way}",
            "POST",
            *_steps(source.figures["post_to_lockstep_in_steps"]),
        )
        for (workers, way), source in streams.items()
    ]
    for workers in (2, 4):
        source = read(f"lock_step_n{workers}")
        sources.append(source)
        for since in ("COMMIT", "POST"):
            key = f"{since.lower()}_to_lock_step_in_steps_of_the_slowest"
            rows.append(
                (
                    f"{workers} workers, one of them in a prefill chunk",
                    since,
                    *_steps(source.figures[key]),
                )
            )
    return Table(
        name="lock_step",
        question="How long does it take until the workers step together, in steps of the slowest?",
        columns=("load", "from", "median", "longest", "changes"),
        rows=tuple(rows),
        noise="All changes of one run each; beside a prefill chunk "
        f"the slowest step takes {_seconds_of_steps(sources[-2:])}.",
        sources=tuple(sources),
        labels=2,
    )


def _steps(found: dict[str, float]) -> tuple[str, str, str]:
    return fixed(found["median"], 2), fixed(found["max"], 2), fixed(found["runs"])


def _seconds_of_steps(sources: list[Result]) -> str:
    each: list[dict[str, Any]] = [source.figures["slowest_step_s"] for source in sources]
    return " or ".join(f"{fixed(one['min'], 1)} to {fixed(one['max'], 1)} s" for one in each)
