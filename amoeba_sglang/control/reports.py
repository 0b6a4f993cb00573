"""What workers tell the router. Pure values: they travel inside a messages.WorkerReport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class TransformReport(msgspec.Struct):
    """What a transformation cost, on one worker or, `merged`, on all of its block.

    seconds: from COMMIT until the worker steps at its new degree; lockstep_seconds: from COMMIT
    until the whole block had arrived; step_seconds: of the slowest step in which the COMMIT waited;
    longest_step_seconds: the longest time between two joint steps that a move took; moves: how
    often some layers moved; pause_seconds: all the time that moves took between joint steps;
    settle_seconds: waiting inside of the steps; copy_seconds: of processor time for copies and
    mappings; kv_bytes, weight_bytes: received from peers; pace: why as many layers moved at a time;
    error: why the layout is the old one again, or empty.
    """

    seconds: float = 0.0
    lockstep_seconds: float = 0.0
    step_seconds: float = 0.0
    longest_step_seconds: float = 0.0
    moves: int = 0
    pause_seconds: float = 0.0
    settle_seconds: float = 0.0
    copy_seconds: float = 0.0
    kv_bytes: int = 0
    weight_bytes: int = 0
    pace: str = ""
    error: str = ""

    @classmethod
    def merged(cls, reports: Sequence[TransformReport]) -> TransformReport:
        """The longest times and the sum of the bytes of workers that succeeded."""
        first = reports[0]
        added = ("kv_bytes", "weight_bytes")
        figures = {
            name: (sum if name in added else max)(getattr(report, name) for report in reports)
            for name in cls.__struct_fields__
            if not isinstance(getattr(first, name), str)
        }
        return cls(**figures, pace=first.pace)

    def to_json(self) -> dict[str, Any]:
        """The fields of a history entry of `GET /amoeba/state`, which has its own `seconds`."""
        fields = msgspec.structs.asdict(self)
        moved = {"kv": fields.pop("kv_bytes"), "weights": fields.pop("weight_bytes")}
        del fields["seconds"], fields["error"]
        return {**fields, "bytes_moved": moved}


class StepSums(msgspec.Struct, frozen=True):
    """Steps of one degree added up, as StepFit.add takes them."""

    steps: int
    sums: list[list[float]]


class FromWorker(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all reports; `rank`: of the worker."""

    rank: int


class Vote(FromWorker, frozen=True):
    """Whether the worker can carry out the order of `epoch`; `reason`: why not."""

    epoch: int
    accept: bool
    reason: str = ""


class Progress(FromWorker, frozen=True):
    """Where b is after a move of layers that is not the last, from the first rank of the block.
    `pace`: why as many layers move at a time."""

    epoch: int
    boundary: int
    pace: str


class Done(FromWorker, frozen=True):
    """The worker steps at its new degree, or with an error in the report at its old one again."""

    epoch: int
    report: TransformReport


class StepsMeasured(FromWorker, frozen=True):
    """What steps have cost since the last such report, by degree, from the first worker of an
    instance. `device`: what its device has counted since the start."""

    sums: dict[int, StepSums]
    device: dict[str, float] = {}


class LongRequestsHere(FromWorker, frozen=True):
    """Other long requests than before wait or live at the worker: all of them. `ended`: those that
    have come since the last report and are gone."""

    request_ids: list[str]
    ended: list[str] = []


class IdleAnswer(FromWorker, frozen=True):
    """Whether the worker could flush its cache now; `number`: of the IdleQuestion."""

    number: int
    idle: bool


Report = Vote | Progress | Done | StepsMeasured | LongRequestsHere | IdleAnswer
