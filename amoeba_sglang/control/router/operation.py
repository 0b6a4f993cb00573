"""The state machine of transformations: one at a time, two phases, results that are kept.

Pure: it is told messages and the time, and returns effects for its caller to carry out. Times are
seconds of one monotonic clock.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import Done, Progress, TransformReport, Vote
from amoeba_sglang.control.router.effects import Answer, Effect, End, Finished, Order
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.router.transform_request import TransformRequest

HISTORY_SIZE = 64


@dataclass
class _Operation:
    request: TransformRequest
    epoch: int
    target: Layout
    before: tuple[int, ...]
    after: tuple[int, ...]
    boundary: int
    started: float
    deadline: float
    phase: str = "prepare"
    committed: float | None = None
    pace: str = ""
    votes: set[int] = field(default_factory=set)
    reports: dict[int, TransformReport] = field(default_factory=dict)
    waiters: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "merge" if max(self.after) > min(self.before) else "split"

    @property
    def missing(self) -> list[int]:
        heard = self.votes if self.phase == "prepare" else self.reports.keys()
        return [rank for rank in self.request.ranks if rank not in heard]

    def order(self, phase: str) -> Order:
        request = self.request
        change = {"ranks": request.ranks, "before": self.before, "after": self.after}
        return Order(phase, request.operation_id, self.epoch, **change)


class Operations:
    """The current layout, the running operation and the last `HISTORY_SIZE` results."""

    def __init__(
        self,
        chain: DegreeChain,
        layout: Layout,
        layers: int,
        prepare_timeout_s: float,
        finish_timeout_s: float,
    ) -> None:
        self.layout = layout
        self._chain = chain
        self._layers = layers
        self._prepare_timeout_s = prepare_timeout_s
        self._finish_timeout_s = finish_timeout_s
        self._epoch = 0
        self._running: _Operation | None = None
        self._results: OrderedDict[str, tuple[TransformRequest, int, Record]] = OrderedDict()

    @property
    def running(self) -> dict[str, Any] | None:
        """The running operation as `GET /amoeba/state` shows it."""
        operation = self._running
        if operation is None:
            return None
        return {
            "operation_id": operation.request.operation_id,
            "kind": operation.kind,
            "ranks": list(operation.request.ranks),
            "degree": operation.request.degree,
            "phase": operation.phase,
            "boundary": operation.boundary,
            "layers": self._layers,
            "pace": operation.pace,
        }

    @property
    def target(self) -> Layout:
        """The layout after the running operation, or the present one."""
        return self.layout if self._running is None else self._running.target

    @property
    def history(self) -> list[Record]:
        """The last results, oldest first."""
        return [record for _, _, record in self._results.values()]

    def would_reach(self, request: TransformRequest) -> Layout | None:
        """The layout after `request` if it would start now, else None."""
        if self._running is not None or self._known(request.operation_id) is not None:
            return None
        try:
            target = self._target(request)
        except LayoutError:
            return None
        return None if target == self.layout else target

    def submit(
        self, request: TransformRequest, waiter: str, now: float, objection: str | None = None
    ) -> list[Effect]:
        """Start `request`, or answer why not; a known operation_id gets its own result again.

        `objection`: why no worker need be asked, if it would start.
        """
        known = self._known(request.operation_id)
        if known is not None and not known.same_change(request):
            return [
                _refuse(
                    waiter,
                    409,
                    f"operation_id {request.operation_id} already stands for ranks "
                    f"{list(known.ranks)} and degree {known.degree}",
                )
            ]
        if request.operation_id in self._results:
            _, status, record = self._results[request.operation_id]
            return [Answer(waiter, status, record.to_json())]
        running = self._running
        if running is not None and known is not None:
            if not request.wait:
                return [self._accepted(waiter)]
            running.waiters.append(waiter)
            return []
        try:
            target = self._target(request)
        except LayoutError as error:
            return [_refuse(waiter, 400, str(error))]
        if running is not None:
            return [
                _refuse(
                    waiter, 409, f"operation {running.request.operation_id} is running; try later"
                )
            ]
        if target == self.layout:
            record = self._record(request, "none", "unchanged", now)
            self._remember(request, 200, record)
            return [Finished(record), Answer(waiter, 200, record.to_json())]
        operation = self._make(request, target, now)
        if objection is not None:
            record = self._record(request, operation.kind, "refused", now, error=objection)
            self._remember(request, 409, record)
            return [Finished(record), Answer(waiter, 409, record.to_json())]
        return self._start(operation, waiter)

    def vote(self, vote: Vote, now: float) -> list[Effect]:
        """Take the vote of one worker; a stale one is of no use and ignored."""
        operation = self._running
        if operation is None or operation.epoch != vote.epoch or operation.phase != "prepare":
            return []
        if not vote.accept:
            return self._give_up(409, "refused", f"rank {vote.rank} refuses: {vote.reason}", now)
        operation.votes.add(vote.rank)
        if operation.missing:
            return []
        operation.phase, operation.committed = "commit", now
        operation.deadline = now + self._finish_timeout_s
        return [operation.order("commit")]

    def progress(self, progress: Progress, now: float) -> None:
        """Take the report of where b is; the workers have time for the next layers from now."""
        operation = self._running
        if operation is None or operation.epoch != progress.epoch or operation.phase != "commit":
            return
        operation.boundary, operation.pace = progress.boundary, progress.pace
        operation.deadline = now + self._finish_timeout_s

    def done(self, done: Done, now: float) -> list[Effect]:
        """Take one worker's report that it steps at its new degree."""
        operation = self._running
        if operation is None or operation.epoch != done.epoch or operation.phase != "commit":
            return []
        operation.reports[done.rank] = done.report
        if operation.missing:
            return []
        errors = [
            f"rank {rank}: {report.error}"
            for rank, report in operation.reports.items()
            if report.error
        ]
        if errors:
            return self._finish(500, "undone", now, "; ".join(errors))
        self.layout = operation.target
        return self._finish(200, "done", now)

    def tick(self, now: float) -> list[Effect]:
        """Give up, or declare stuck, an operation whose time is over."""
        operation = self._running
        if operation is None or now < operation.deadline:
            return []
        if operation.phase == "prepare":
            reason = (
                f"no vote from ranks {operation.missing} within {self._prepare_timeout_s:g} s "
                "(--amoeba-prepare-timeout-s)"
            )
            return self._give_up(504, "timeout", reason, now)
        return [
            End(
                f"operation {operation.request.operation_id}: ranks {operation.missing} did not "
                f"finish within {self._finish_timeout_s:g} s after COMMIT or the last move"
            )
        ]

    def _known(self, operation_id: str) -> TransformRequest | None:
        if self._running is not None and self._running.request.operation_id == operation_id:
            return self._running.request
        return self._results[operation_id][0] if operation_id in self._results else None

    def _target(self, request: TransformRequest) -> Layout:
        """The layout after `request`; what only a running operation forbids is not its fault."""
        try:
            return self.layout.change(self._chain, request.ranks, request.degree)
        except LayoutError:
            if self._running is None:
                raise
            return self._running.target.change(self._chain, request.ranks, request.degree)

    def _make(self, request: TransformRequest, target: Layout, now: float) -> _Operation:
        before = tuple(self.layout.degrees[rank] for rank in request.ranks)
        after = tuple(target.degrees[rank] for rank in request.ranks)
        return _Operation(
            request=request,
            epoch=self._epoch + 1,
            target=target,
            before=before,
            after=after,
            boundary=0 if max(after) < max(before) else self._layers,
            started=now,
            deadline=now + self._prepare_timeout_s,
        )

    def _start(self, operation: _Operation, waiter: str) -> list[Effect]:
        self._running, self._epoch = operation, operation.epoch
        effects: list[Effect] = [operation.order("prepare")]
        if operation.request.wait:
            operation.waiters.append(waiter)
        else:
            effects.append(self._accepted(waiter))
        return effects

    def _accepted(self, waiter: str) -> Answer:
        assert self.running is not None
        return Answer(waiter, 202, self.running)

    def _give_up(self, status: int, outcome: str, reason: str, now: float) -> list[Effect]:
        assert self._running is not None
        abort = self._running.order("abort")
        return [abort, *self._finish(status, outcome, now, reason)]

    def _finish(self, status: int, outcome: str, now: float, error: str = "") -> list[Effect]:
        operation, self._running = self._running, None
        assert operation is not None
        seconds = now - operation.started
        told = {"seconds": seconds, "error": error}
        record = self._record(operation.request, operation.kind, outcome, now, **told)
        if outcome == "done":
            assert operation.committed is not None
            record = replace(
                record,
                prepare_seconds=operation.committed - operation.started,
                report=TransformReport.merged(list(operation.reports.values())),
            )
        self._remember(operation.request, status, record)
        answers = [Answer(waiter, status, record.to_json()) for waiter in operation.waiters]
        return [Finished(record), *answers]

    def _record(
        self, request: TransformRequest, kind: str, outcome: str, now: float, **told: Any
    ) -> Record:
        return Record(
            request.operation_id, request.reason, kind, outcome, request.ranks,
            degree=request.degree, instances=self.layout.instances, ended_at=now, **told,
        )  # fmt: skip

    def _remember(self, request: TransformRequest, status: int, record: Record) -> None:
        self._results[request.operation_id] = (request, status, record)
        if len(self._results) > HISTORY_SIZE:
            self._results.popitem(last=False)


def _refuse(waiter: str, status: int, reason: str) -> Answer:
    return Answer(waiter, status, {"error": reason})
