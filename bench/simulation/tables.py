"""Prints how contenders compare, workload by workload."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

_STATIC = ("8xTP1", "4xTP2", "2xTP4", "1xTP8", "4xTP1", "2xTP2", "1xTP4", "2xTP1", "1xTP2")


def print_tables(rows: list[dict[str, Any]]) -> None:
    """For every device and criterion: rates, and those of `amoeba` against the best others."""
    for device in dict.fromkeys(row["device"] for row in rows):
        for key in ("a", "b"):
            here = [row for row in rows if row["device"] == device]
            _print_table(f"SIMULATED {device}, criterion ({key})", summarise(here, key))


def summarise(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """By workload: mean rates over the seeds by contender, and ratios of `amoeba` to them.

    A contender that rejects requests is no rival: its rate is left out of "best".
    """
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rejecting: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        rates[row["workload"]][row["contender"]].append(row[key])
        if row.get("rejected"):
            rejecting[row["workload"]].add(row["contender"])
    found = {}
    for workload, by_contender in rates.items():
        means = {name: sum(values) / len(values) for name, values in by_contender.items()}
        fair = {
            name: rate
            for name, rate in means.items()
            if name not in rejecting[workload] and name != "fluid bound"
        }
        ours = means.get("amoeba", 0.0)
        static = max((rate for name, rate in fair.items() if name in _STATIC), default=0.0)
        found[workload] = {
            "rates": means,
            "rejecting": sorted(rejecting[workload]),
            "spread": [min(by_contender["amoeba"]), max(by_contender["amoeba"])]
            if "amoeba" in by_contender
            else None,
            "best static": _ratio(ours, static),
            "best of all": _ratio(ours, max(fair.values(), default=0.0)),
            "fluid bound": _ratio(ours, means.get("fluid bound", 0.0)),
        }
    return found


def geometric_mean(values: list[float]) -> float:
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def _ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs else None


def _print_table(title: str, found: dict[str, dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for one in found.values() for name in one["rates"]))
    print(f"\n{title}, requests/s; * rejects requests")
    print("| workload | " + " | ".join(names) + " | amoeba / best static, all, bound |")
    print("|---" * (len(names) + 2) + "|")
    for workload, one in found.items():
        cells = [
            f"{one['rates'][name]:.2f}" + ("*" if name in one["rejecting"] else "")
            if name in one["rates"]
            else "-"
            for name in names
        ]
        ratios = [one[what] for what in ("best static", "best of all", "fluid bound")]
        shown = ", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        print(f"| {workload} | " + " | ".join(cells) + f" | {shown} |")
    every = [one["best of all"] for one in found.values() if one["best of all"] is not None]
    print(f"geometric mean of amoeba / best of all: {geometric_mean(every):.3f}")
