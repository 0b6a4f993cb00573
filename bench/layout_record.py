"""The layout of a server over time, from its `GET /amoeba/state`. Pure."""

from dataclasses import dataclass, field
from typing import Any

from bench.replay_metrics import spread


def describe_emulation(state: dict[str, Any]) -> str | None:
    """What must be said first of a server that computes nothing; None if it computes."""
    said = state.get("EMULATED")
    if said is None:
        return None
    return (
        f"EMULATED {said['model']} on {said['device']} ({said['cost_model']}), times divided by "
        f"the time dilation {said['dilation']:g}"
    )


def dilation_of(state: dict[str, Any]) -> float:
    """Real seconds in which a second of the server's device passes."""
    said = state.get("EMULATED")
    return 1.0 if said is None else float(said["dilation"])


@dataclass
class LayoutRecord:
    """`first`: the state before the replay; `last`: the newest. All times in seconds of the
    server's device, which an emulated server's own times are, too.

    changes: (time, degree by rank) of every layout that was seen. operations: what ended meanwhile.
    """

    first: dict[str, Any]
    changes: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = {operation["operation_id"] for operation in self.first["history"]}
        self.changes.append((0.0, degrees_of(self.first)))
        self.last = self.first

    def add(self, time: float, state: dict[str, Any]) -> None:
        self.last, degrees = state, degrees_of(state)
        if degrees != self.changes[-1][1]:
            self.changes.append((time, degrees))
        for operation in state["history"]:
            if operation["operation_id"] not in self._known:
                self._known.add(operation["operation_id"])
                self.operations.append({**operation, "seen": time})

    def describe(self, seconds: float) -> dict[str, Any]:
        """Figures of a replay that took `seconds`."""
        done = [one for one in self.operations if one["outcome"] == "done"]
        times = [one["seconds"] for one in done]
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
