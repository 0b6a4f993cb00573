"""What a change costs by the way in which it is done: `bench.transform`, the paper's Figures 9 to
11."""

from __future__ import annotations

from typing import Any

from bench.results_file import read
from tools.results.numbers import fixed, reach, spread
from tools.results.table import Table

# The names in the file, and ours.
OVERALL = {
    "all at once": "all at once",
    "staggered, overlap (Amoeba)": "staggered",
    "staggered, no overlap": "staggered, not beside computation",
    "Basic, Partial Swap": '"Basic", partial swap',
    "Seesaw, Partial Swap": "Seesaw's way",
}
_KV = {"Amoeba": "in place", "Basic": '"Basic": a second pool', "Seesaw": "Seesaw: by the host"}
_WEIGHTS = {"Amoeba": "by pages", "Partial Swap": "partial swap"}


def merges() -> Table:
    return _overall(
        "merge",
        "merges",
        "What does a whole merge add to the steps beside it, by way, in ms?",
        chart="ways.svg",
    )


def splits() -> Table:
    question = "What does a whole split add to the steps beside it, by way, in ms?"
    return _overall("split", "splits", question)


def _overall(kind: str, name: str, question: str, chart: str = "") -> Table:
    source = read("transform")
    cases = source.figures["cases"]
    rows = [
        (
            *_case(case),
            *(spread(case["ms"][f"overall of a {kind}: {way}"]) for way in OVERALL),
        )
        for case in cases
    ]
    basic = _medians(cases, f"overall of a {kind}: Basic, Partial Swap")
    shares = []
    for way in OVERALL:
        ours = _medians(cases, f"overall of a {kind}: {way}")
        shares.append(reach([one / other for one, other in zip(ours, basic, strict=True)]))
    rows.append(('of "Basic", over all cases', "", "", *shares))
    apart = _medians(cases, f"overall of a {kind}: staggered, no overlap")
    ours = _medians(cases, f"overall of a {kind}: staggered, overlap (Amoeba)")
    gain = reach([one / other for one, other in zip(ours, apart, strict=True)])
    rows.append(("of that not beside computation", "", "", "", gain, "1.00", "", ""))
    return Table(
        name=name,
        question=question,
        columns=("model", "degree", "live tokens", *OVERALL.values()),
        rows=tuple(rows),
        noise=f"Median (range) of {source.figures['settings']['rounds']} rounds in which the ways "
        "take turns, the slowest worker counts; a difference of two noisy times may be negative.",
        sources=(source,),
        labels=3,
        chart=chart,
    )


def kv_ways() -> Table:
    return _parts("KV", _KV, "kv_ways", "How long does the KV of a change take, by way, in ms?")


def weights_ways() -> Table:
    question = "How long do the weights of a change take, by way, in ms?"
    return _parts("weights", _WEIGHTS, "weights_ways", question)


def _parts(what: str, ways: dict[str, str], name: str, question: str) -> Table:
    source = read("transform")
    cases, kinds = source.figures["cases"], ("merge", "split")
    names = [f"{what} of a {kind}: {way}" for kind in kinds for way in ways]
    rows = [
        (
            *_case(case),
            fixed(case[f"{what.lower().removesuffix('s')}_bytes"] / 1e6),
            *(fixed(case["ms"][way]["median"], 1) for way in names),
        )
        for case in cases
    ]
    measured = [case["ms"][way] for case in cases for way in names]
    low = min(one["min"] / one["median"] for one in measured)
    high = max(one["max"] / one["median"] for one in measured)
    return Table(
        name=name,
        question=question,
        columns=(
            "model",
            "degree",
            "live tokens",
            "MB of a worker",
            *(f"{kind}, {way}" for kind in kinds for way in ways.values()),
        ),
        rows=tuple(rows),
        noise=f"Medians of {source.figures['settings']['rounds']} rounds, which lie within "
        f"{fixed(low, 2)} and {fixed(high, 2)} times of them; all layers at once, the slowest "
        "worker counts.",
        sources=(source,),
        labels=3,
    )


def _case(case: dict[str, Any]) -> tuple[str, str, str]:
    return case["shape"], str(case["degree"]), fixed(case["live_tokens"])


def _medians(cases: list[dict[str, Any]], way: str) -> list[float]:
    return [case["ms"][way]["median"] for case in cases]
