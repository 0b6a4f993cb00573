"""Which policy, SIMULATED?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.results_file import Result, read
from bench.simulation.tables import geometric_mean
from tools.results.numbers import fixed, reach
from tools.results.table import Table

_AGAINST = {
    "best static": "best static layout that serves all",
    "2xTP4": "2xTP4",
    "round_robin": "round robin",
    "best of all": "whatever is best",
}
_RIVALS = {
    "restart": "restarts",
    "seesaw": "Seesaw",
    "kunserve": "KunServe",
    "loongserve": "LoongServe",
}
_WORKLOADS = {
    "azure2023": "Azure conversation",
    "azure2023 0.1%": "with 0.1 % of 128K",
    "azure2023 0.3%": "with 0.3 %",
    "azure2023 1%": "with 1 %",
    "azure2023 bursts": "with 1 % in bursts of ten",
    "azure2023 alternating 300 s": "alternating every 300 s",
    "azure2023 alternating 120 s": "alternating every 120 s",
    "mooncake x1": "Mooncake conversation",
    "mooncake x2": "Mooncake, prompts twice as long",
}
_CRITERIA = ("a", "b")


def tp_loss() -> Table:
    return _against_static(
        "simulation_tp_loss",
        "simulated",
        "What rate does `amoeba` sustain, SIMULATED, where TP costs what the paper measured?",
        chart="simulated.svg",
    )


def roofline() -> Table:
    question = "What rate does `amoeba` sustain, SIMULATED, where TP costs what a roofline says?"
    return _against_static("simulation_roofline", "simulated_roofline", question)


def _against_static(file: str, name: str, question: str, chart: str = "") -> Table:
    source = read(file)
    by_criterion = tables_of(source)
    workloads = list(by_criterion["a"])
    known = [
        rival for rival in _AGAINST if by_criterion["a"][workloads[0]]["ratios"][rival] is not None
    ]
    rows = [
        (
            workload_title(workload),
            _both(by_criterion, workload, lambda found: fixed(found["rates"]["amoeba"], 2)),
            *(
                _both(by_criterion, workload, lambda found, r=rival: fixed(found["ratios"][r], 2))
                for rival in known
            ),
            _both(by_criterion, workload, lambda one: reach([one["worst"], one["best"]])),
        )
        for workload in workloads
    ]
    means = []
    for rival in known:
        each = [
            [found["ratios"][rival] for found in by_criterion[criterion].values()]
            for criterion in _CRITERIA
        ]
        means.append(", ".join(fixed(geometric_mean(ratios), 3) for ratios in each))
    rows.append(("geometric mean", "", *means, ""))
    return Table(
        name=name,
        question=question,
        columns=(
            "workload, SIMULATED",
            "requests/s (a), (b)",
            *(f"over {_AGAINST[rival]} (a), (b)" for rival in known),
            "over the best static one, single seeds (a), (b)",
        ),
        rows=tuple(rows),
        noise=f"SIMULATED, {next(iter(source.figures['tables']))}; "
        f"{_seeds(source)} seeds, whose means the ratios are of.",
        sources=(source,),
        chart=chart,
    )


def rivals() -> Table:
    source = read("simulation_rivals")
    by_criterion = tables_of(source)
    rows = [
        (
            workload_title(workload),
            _both(by_criterion, workload, lambda found: fixed(found["rates"]["amoeba"], 2)),
            *(
                _both(by_criterion, workload, lambda found, r=rival: _over(found["rates"], r))
                for rival in _RIVALS
            ),
        )
        for workload in by_criterion["a"]
    ]
    return Table(
        name="simulated_rivals",
        question="What rate does `amoeba` sustain, SIMULATED, over sketches of rival systems?",
        columns=(
            "workload, SIMULATED",
            "requests/s (a), (b)",
            *(f"over {title} (a), (b)" for title in _RIVALS.values()),
        ),
        rows=tuple(rows),
        noise=f"SIMULATED, {next(iter(source.figures['tables']))}; {_seeds(source)} seed; -: the "
        "rival sustains no rate that was tried.",
        sources=(source,),
    )


def tables_of(source: Result) -> dict[str, dict[str, Any]]:
    """By criterion and workload, of the one device of a file."""
    [by_criterion] = source.figures["tables"].values()
    return by_criterion


def workload_title(name: str) -> str:
    return _WORKLOADS.get(name, name)


def _both(
    by_criterion: dict[str, dict[str, Any]], workload: str, show: Callable[[dict[str, Any]], str]
) -> str:
    return ", ".join(show(by_criterion[criterion][workload]) for criterion in _CRITERIA)


def _over(rates: dict[str, float], rival: str) -> str:
    return fixed(rates["amoeba"] / rates[rival], 2) if rates[rival] else "-"


def _seeds(source: Result) -> int:
    return len({case["seed"] for case in source.figures["cases"]})
