"""The layout of a server over time, from its `GET /amoeba/state`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.replay_metrics import spread


@dataclass(frozen=True)
class Emulation:
    """An emulated server: nothing is computed, its device's seconds take `dilation` real ones."""

    device: str
    dilation: float


def read_emulation(state: dict[str, Any]) -> Emulation | None:
    """What the server says of itself; None if it computes."""
    said = state.get("emulated")
    return None if said is None else Emulation(str(said["device"]), float(said["time_dilation"]))


@dataclass
class LayoutRecord:
    """`first`: the state before the replay. Times of `add` in seconds of the replay's clock, those
    in states in real ones, `dilation` times as long.

    changes: (time, degree by rank) of every layout that was seen. operations: what ended meanwhile.
    """

    first: dict[str, Any]
    dilation: float = 1.0
    changes: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = {operation["operation_id"] for operation in self.first["history"]}
        self.changes.append((0.0, degrees_of(self.first)))

    def add(self, time: float, state: dict[str, Any]) -> None:
        degrees = degrees_of(state)
        if degrees != self.changes[-1][1]:
            self.changes.append((time, degrees))
        for operation in state["history"]:
            if operation["operation_id"] not in self._known:
                self._known.add(operation["operation_id"])
                self.operations.append({**operation, "seen": time})

    def describe(self, seconds: float) -> dict[str, Any]:
        """Figures of a replay that took `seconds`."""
        done = [one for one in self.operations if one["outcome"] == "done"]
        times = [one["seconds"] / self.dilation for one in done]
        return {
            "transformations": {
                **{kind: sum(o["kind"] == kind for o in done) for kind in ("merge", "split")},
                "refused_or_failed": sum(
                    o["outcome"] not in ("done", "unchanged") for o in self.operations
                ),
                "per_minute": 60 * len(done) / seconds if seconds else 0.0,
                "seconds_in_them": sum(times),
                "seconds_each": spread(times),
            },
            "share_of_worker_time_by_degree": self.shares(seconds),
            "layouts": [[round(time, 3), list(degrees)] for time, degrees in self.changes],
        }

    def shares(self, seconds: float) -> dict[str, float]:
        """By degree the share of all workers' time until `seconds`."""
        found: dict[int, float] = {}
        ends = [time for time, _ in self.changes[1:]] + [seconds]
        for (start, degrees), end in zip(self.changes, ends, strict=True):
            lasted = max(0.0, min(end, seconds) - start)
            for degree in degrees:
                found[degree] = found.get(degree, 0.0) + lasted / len(degrees)
        whole = sum(found.values()) or 1.0
        return {str(degree): share / whole for degree, share in sorted(found.items())}


def degrees_of(state: dict[str, Any]) -> tuple[int, ...]:
    """The degree of every rank."""
    by_rank = {rank: one["degree"] for one in state["instances"] for rank in one["ranks"]}
    return tuple(by_rank[rank] for rank in sorted(by_rank))
