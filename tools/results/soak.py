"""What came of soaking real servers: tables of soak.json, whose runs add up by version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.results_file import read
from tools.results.numbers import fixed, signed, tiny
from tools.results.table import Table

# Too few changes say nothing of a trend.
_TREND = 100
_RARE = {
    "requests retracted": "requests retracted",
    "slots lent: times": "loans of slots",
    "slots lent": "slots lent",
    "slots moved to stay cached": "slots moved to stay cached",
    "slots relocated": "slots relocated for an order",
    "refused: no refuge for the tokens of long requests": "orders refused for lack of a refuge",
}


@dataclass(frozen=True)
class Group:
    """Runs that ended alike, of one version and kind of server if it says so."""

    version: str
    case: str
    runs: tuple[dict[str, Any], ...]

    @property
    def label(self) -> str:
        return f"{self.version[:7]}: {self.case}" if self.version else self.case

    def total(self, field: str) -> Counter[str]:
        """Of a field that counts by name."""
        return sum((Counter(run[field]) for run in self.runs), Counter())

    @property
    def transformations(self) -> int:
        return sum(run["transformations"] for run in self.runs)

    @property
    def outcomes(self) -> Counter[str]:
        """How requests ended, all kinds of them."""
        kinds = (Counter(kind) for run in self.runs for kind in run["requests"].values())
        return sum(kinds, Counter())


def soak() -> Table:
    rows = []
    clean = tuple(run for group in _groups() for run in group.runs)
    groups = (*_groups(), Group("", "all of these", clean), *_groups(with_complaint=True))
    for group in groups:
        outcomes, orders = group.outcomes, group.total("orders")
        worst = max(run["worst_log_probability"] for run in group.runs)
        late = f", {orders['504 timeout']} late" if orders["504 timeout"] else ""
        rows.append(
            (
                group.label,
                fixed(len(group.runs)),
                fixed(group.transformations),
                fixed(orders["409 refused"]) + late,
                fixed(sum(run["quiet_spells"] for run in group.runs)),
                fixed(outcomes["equal"]),
                fixed(outcomes["differs"]),
                fixed(outcomes["aborted"]),
                fixed(outcomes["disconnected"]),
                tiny(worst),
            )
        )
    return Table(
        name="soak",
        question="Is anything lost in real servers whose layout changes all the time, as operators "
        "or the policy want?",
        columns=(
            "version and server",
            "runs",
            "transformations",
            "orders refused",
            "times KV and weights were compared bit for bit",
            "outputs equal",
            "outputs different",
            "requests aborted",
            "left",
            "log-probabilities differ by at most, of the largest",
        ),
        rows=tuple(rows),
        noise="Against a server that never changed; sums of all runs of a kind, of which those "
        "that ended with a complaint have rows of their own.",
        sources=(read("soak"),),
    )


def soak_events() -> Table:
    rows = [
        (group.label, *(fixed(group.total("events")[event]) for event in _RARE))
        for group in _groups()
    ]
    return Table(
        name="soak_events",
        question="How often did rare things happen in those runs?",
        columns=("version and server", *_RARE.values()),
        rows=tuple(rows),
        noise="Sums of the runs without a complaint.",
        sources=(read("soak"),),
    )


def soak_memory() -> Table:
    rows = []
    for group in _groups():
        for run in group.runs:
            growth = run["growth_per_100_transformations"]["all"]
            if run["transformations"] >= _TREND:
                rows.append(
                    (
                        group.label,
                        fixed(run["transformations"]),
                        _slope(growth["pss_mib"]),
                        _slope(growth["fds"]),
                    )
                )
    return Table(
        name="soak_memory",
        question="How does a server's memory grow in a hundred transformations?",
        columns=(
            "version and server",
            "transformations of the run",
            "memory (PSS of all processes), MiB",
            "descriptors",
        ),
        rows=tuple(rows),
        noise=f"Slope and its interval, a row for every run of {_TREND} transformations or more.",
        sources=(read("soak"),),
    )


def _slope(found: dict[str, Any]) -> str:
    low, high = (signed(edge) for edge in found["interval"])
    return f"{signed(found['slope'])} ({low} to {high})"


def _groups(with_complaint: bool = False) -> Iterator[Group]:
    for version, cases in read("soak").figures["versions"].items():
        for case, found in cases.items():
            runs = tuple(run for run in found["runs"] if bool(run["problems"]) == with_complaint)
            ending = "; ended with a complaint" if with_complaint else ""
            if runs:
                yield Group(version, case + ending, runs)
