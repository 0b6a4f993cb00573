"""The result of an operation: an entry of the history."""

from dataclasses import dataclass
from typing import Any

from amoeba_sglang.control.reports import TransformReport


@dataclass(frozen=True)
class Record:
    """`kind`: "merge", "split" or "none". `outcome`: "done", "unchanged", "refused", "timeout" or
    "undone", the last three with an `error`. `instances`: of the layout afterwards. `seconds`: from
    the order to the end, of which `prepare_seconds` before COMMIT. `ended_at`: by the desk's clock.
    `report`: if it is done."""

    operation_id: str
    reason: str
    kind: str
    outcome: str
    ranks: tuple[int, ...]
    degree: int
    instances: tuple[tuple[int, ...], ...]
    seconds: float = 0.0
    ended_at: float = 0.0
    error: str = ""
    prepare_seconds: float = 0.0
    report: TransformReport | None = None

    def to_json_at(self, now: float) -> dict[str, Any]:
        """As an entry of a history."""
        return {**self.to_json(), "seconds_ago": round(now - self.ended_at, 3)}

    def to_json(self) -> dict[str, Any]:
        """As users see it."""
        shown: dict[str, Any] = {
            "operation_id": self.operation_id,
            "reason": self.reason,
            "kind": self.kind,
            "outcome": self.outcome,
            "ranks": list(self.ranks),
            "degree": self.degree,
            "instances": [list(ranks) for ranks in self.instances],
            "seconds": self.seconds,
        }
        if self.error:
            shown["error"] = self.error
        if self.report is not None:
            shown["prepare_seconds"] = self.prepare_seconds
            shown.update(self.report.to_json())
        return shown
