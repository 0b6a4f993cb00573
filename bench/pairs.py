"""Pairs of runs that two servers made in turn: their ratios, what a bar says, where they are kept.

The interval of a median is the distribution-free one: from the k-th smallest to the k-th largest of
n ratios. The true median lies outside with probability 2 P(B < k), B binomial of n draws at 1/2, so
no shape of the noise is assumed. k is the largest that leaves at least 90 % inside: the 3rd and the
10th of 12 (96 %), the smallest and the largest of 6 (97 %).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from scipy.stats import binom

COVERAGE = 0.9
FEWEST = 5
"""Pairs: of fewer not even the smallest and the largest are 90 % apart."""


@dataclass(frozen=True)
class Interval:
    """Of ratios: their median, and bounds that hold the true one with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def median_interval(ratios: Sequence[float]) -> Interval:
    """See the module; ValueError for fewer than 5 ratios."""
    count = len(ratios)
    if count < FEWEST:
        raise ValueError(f"{count} ratios: an interval of {COVERAGE:.0%} needs {FEWEST} at least")
    rank = max(k for k in range(1, count // 2 + 1) if _inside(k, count) >= COVERAGE)
    ordered = np.sort(ratios)
    low, high = float(ordered[rank - 1]), float(ordered[-rank])
    return Interval(float(np.median(ordered)), low, high, _inside(rank, count))


def _inside(rank: int, count: int) -> float:
    return 1.0 - 2.0 * float(binom.cdf(rank - 1, count, 0.5))


class Verdict(StrEnum):
    """What a measurement says of a bar."""

    HOLDS = "holds"
    BROKEN = "does not hold"
    UNDECIDED = "undecided"


def judge(found: Interval, itself: Interval, bar: float) -> Verdict:
    """`itself`: of one version against itself, which says how much the machine's noise makes.

    An interval below the bar is an answer however wide it is.
    """
    if found.high < bar:
        return Verdict.BROKEN
    return Verdict.UNDECIDED if found.width > 2 * itself.width else Verdict.HOLDS


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 if every bar holds, 1 if one does not, else 2."""
    if Verdict.BROKEN in verdicts:
        return 1
    return 2 if Verdict.UNDECIDED in verdicts else 0


@dataclass(frozen=True)
class Series:
    """What makes pairs comparable: both commits, the servers, the load, and who the other one is.

    `against`: "base", or "itself" for two servers of `this`.
    """

    this: str
    base: str
    dtype: str
    workers: int
    degree: int
    kind: str
    against: str


@dataclass(frozen=True)
class Pair:
    """Seconds that both took for the same requests."""

    this: float
    other: float

    @property
    def ratio(self) -> float:
        """Above 1 this version is faster."""
        return self.other / self.this


class PairFile:
    """Pairs that are measured, one JSON line each, so that a run that was killed goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pairs: dict[Series, dict[int, Pair]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        text = path.read_text()
        # A run that was killed may have left half a line.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        for line in whole.splitlines():
            row = json.loads(line)
            self._keep(Series(**row["series"]), row["number"], Pair(**row["seconds"]))

    def get(self, series: Series) -> dict[int, Pair]:
        """The pairs by their numbers."""
        return dict(self._pairs.get(series, {}))

    def add(self, series: Series, number: int, pair: Pair) -> None:
        row = {"series": asdict(series), "number": number, "seconds": asdict(pair)}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._keep(series, number, pair)

    def _keep(self, series: Series, number: int, pair: Pair) -> None:
        self._pairs.setdefault(series, {})[number] = pair
