"""The figures of README's five results, and where in bench/results each comes from."""

from __future__ import annotations

from bench.results_file import read
from tools.results.memory import tokens_that_fit
from tools.results.numbers import fixed


def five_results() -> tuple[tuple[str, ...], ...]:
    """The numbers of each row, in the order in which it names them."""
    lost = read("equality_n4").figures
    cost = read("transform_cost").figures
    gap = read("stagger_n2").figures["staggered merge"]["longest_gap_of_median_gap"]
    own, merged = tokens_that_fit(read("long_request").figures["2 workers"])
    ratio = read("throughput_n2_dp").figures["ratio"]
    return (
        (
            fixed(lost["transformations"]),
            fixed(len(lost["errors"]) + len(lost["differing"])),
            fixed(lost["requests"]),
        ),
        (
            fixed(cost["live_tokens_per_worker"]),
            fixed(cost["restart_s"]["median"]),
            fixed(1e3 * cost["merge_s"]["median"]),
        ),
        (fixed(gap["median"], 2),),
        (fixed(own), fixed(merged)),
        ("1", fixed(ratio["median"], 2)),
    )
