"""How contenders compare, workload by workload."""

import math
from collections import defaultdict
from typing import Any

_STATIC = ("8xTP1", "4xTP2", "2xTP4", "1xTP8", "4xTP1", "2xTP2", "1xTP4", "2xTP1", "1xTP2")
# What `amoeba` is held against.
RIVALS = ("best static", "2xTP4", "round_robin", "best of all", "fluid bound")


def summarise(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """By workload: mean rates over the seeds by contender, and ratios of `amoeba` to them; `worst`
    and `best` are ratios to the best static layout of single seeds.

    A contender that rejects requests is no rival: its rate is left out of "best".
    """
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rejecting: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        rates[row["workload"]][row["contender"]].append(row[key])
        if row.get("rejected"):
            rejecting[row["workload"]].add(row["contender"])
    return {
        workload: _compare(by_contender, rejecting[workload])
        for workload, by_contender in rates.items()
    }


def _compare(by_contender: dict[str, list[float]], rejecting: set[str]) -> dict[str, Any]:
    rates = {name: sum(values) / len(values) for name, values in by_contender.items()}
    fair = [name for name in rates if name not in rejecting and name != "fluid bound"]
    ours, every = by_contender.get("amoeba", []), [rates[name] for name in fair]
    static = [name for name in fair if name in _STATIC]
    theirs = {
        **{name: rates.get(name, 0.0) for name in RIVALS if name not in rejecting},
        "best static": max((rates[name] for name in static), default=0.0),
        "best of all": max(every, default=0.0),
    }
    # Seeds come in the same order for every contender.
    each = [max(values) for values in zip(*(by_contender[n] for n in static), strict=True)]
    by_seed = [mine / best for mine, best in zip(ours, each, strict=False) if best]
    return {
        "rates": rates,
        "rejecting": sorted(rejecting),
        "ratios": {
            name: rates["amoeba"] / rate if rate and "amoeba" in rates else None
            for name, rate in theirs.items()
        },
        "worst": min(by_seed, default=None),
        "best": max(by_seed, default=None),
    }


def geometric_mean(values: list[float]) -> float:
    if not values or min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def tabulate(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """`summarise` by device and criterion."""
    return {
        device: {
            key: summarise([row for row in rows if row["device"] == device], key)
            for key in ("a", "b")
        }
        for device in dict.fromkeys(row["device"] for row in rows)
    }


def print_tables(tables: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Of `tabulate`: rates, and those of `amoeba` against the best others."""
    for device, by_key in tables.items():
        for key, found in by_key.items():
            _print_table(f"SIMULATED {device}, criterion ({key})", found)


def _print_table(title: str, found: dict[str, dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for one in found.values() for name in one["rates"]))
    print(f"\n{title}, requests/s; * rejects requests")
    print("| workload | " + " | ".join([*names, f"amoeba / {', '.join(RIVALS)}", "seeds"]) + " |")
    print("|---" * (len(names) + 3) + "|")
    for workload, one in found.items():
        cells = [
            f"{one['rates'][name]:.2f}" + ("*" if name in one["rejecting"] else "")
            if name in one["rates"]
            else "-"
            for name in names
        ]
        shown = ", ".join(_show(one["ratios"].get(name)) for name in RIVALS)
        seeds = f"{_show(one['worst'])} to {_show(one['best'])}"
        print(f"| {workload} | " + " | ".join([*cells, shown, seeds]) + " |")
    for rival in ("best static", "best of all"):
        ratios = [one["ratios"][rival] for one in found.values() if one["ratios"][rival]]
        if ratios:
            mean = geometric_mean(ratios)
            print(f"amoeba / {rival}: geometric mean {mean:.3f}, least {min(ratios):.3f}")


def _show(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
