"""What steps cost on this server at every degree, learned while it serves."""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from amoeba_sglang.control.policy.throughput import DegreeThroughput, ThroughputTable
from amoeba_sglang.control.reports import StepSums
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.router.step_fit import StepFit

_TRANSFORMATIONS_REMEMBERED = 8


class Calibration:
    """Fits of all degrees, from the workers' sums and, where these say nothing, a `saved` table.

    `max_rows`: requests that one worker may run at a time.
    """

    def __init__(self, capacity: Capacity, max_rows: int, saved: ThroughputTable | None) -> None:
        self._capacity, self._max_rows, self._saved = capacity, max_rows, saved
        known = {} if saved is None else saved.degrees
        self._fits = {
            degree: StepFit(known[degree].cost if degree in known else None)
            for degree in capacity.grown_tokens
        }
        self._costs = {degree: one.cost for degree, one in known.items() if degree in self._fits}
        self._seconds: deque[float] = deque(maxlen=_TRANSFORMATIONS_REMEMBERED)
        self._table = self._make()

    def add(self, sums: Mapping[int, StepSums]) -> None:
        """Take what a worker has measured, by degree."""
        for degree, one in sums.items():
            fit = self._fits[degree]
            fit.add(one.steps, np.array(one.sums))
            self._costs[degree] = fit.cost()
        self._table = self._make()

    def finished(self, record: Record) -> None:
        """Take the end of a transformation."""
        if record.outcome == "done":
            self._seconds.append(record.seconds)
            self._table = self._make()

    @property
    def table(self) -> ThroughputTable | None:
        """None until every degree has been measured or is in the saved table: who does not know
        what a degree costs cannot compare it with others."""
        return self._table if self._costs.keys() == self._fits.keys() else None

    def describe(self) -> dict[str, Any] | None:
        """For `GET /amoeba/state`: what ThroughputTable.from_json reads, of the degrees known."""
        if self._table is None:
            return None
        return {"complete": self.table is not None, **json.loads(self._table.to_json())}

    def _make(self) -> ThroughputTable | None:
        if 1 not in self._costs:
            return None
        degrees = {
            degree: DegreeThroughput(
                cost, self._capacity.instance_tokens(degree), degree * self._max_rows
            )
            for degree, cost in sorted(self._costs.items())
        }
        seconds = 0.0 if self._saved is None else self._saved.transformation_s
        if self._seconds:
            seconds = sum(self._seconds) / len(self._seconds)
        return ThroughputTable(degrees, seconds, self._source())

    def _source(self) -> str:
        steps = {degree: round(fit.steps) for degree, fit in self._fits.items() if fit.steps}
        measured = [f"{count} steps of degree {degree}" for degree, count in steps.items()]
        left = sorted(self._costs.keys() - steps.keys())
        return ", ".join(measured + [f"a saved table for degree {degree}" for degree in left])
