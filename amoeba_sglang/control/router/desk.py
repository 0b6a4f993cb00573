"""The router's logic: told events and the time, it says what to do. Pure.

It knows no sockets, processes or clocks. A live server, the simulator and tests each give it the
events of their world and carry out the effects in order. Times are seconds of one clock.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from amoeba_sglang.control import reports
from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router import events, weight_access
from amoeba_sglang.control.router.admission import Admission, Wait
from amoeba_sglang.control.router.binding import stranded
from amoeba_sglang.control.router.books import Books
from amoeba_sglang.control.router.cache_flush import CacheFlush
from amoeba_sglang.control.router.calibration import Calibration
from amoeba_sglang.control.router.effects import (
    Answer,
    Cancel,
    Effect,
    Finished,
    Forward,
    Limits,
    RefuseControl,
)
from amoeba_sglang.control.router.events import Event
from amoeba_sglang.control.router.layout_keeper import FixedLayout, LayoutKeeper
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.control.router.loads import LoadBook
from amoeba_sglang.control.router.long_book import LongBook
from amoeba_sglang.control.router.operation import Operations
from amoeba_sglang.control.router.state import describe_loads, describe_server
from amoeba_sglang.control.router.terms import Terms
from amoeba_sglang.control.router.transform_request import TransformRequest
from amoeba_sglang.control.router.view import describe_view

# What may make a worker busy. While a flush asks whether they are idle, it waits.
_ADDS_WORK = (
    events.Arrival, events.Abort, events.TransformAsked, events.WeightsAsked, events.FlushAsked,
    events.PauseAsked,
)  # fmt: skip


class Desk:
    """Places requests, changes the layout, and answers what is asked about both."""

    def __init__(self, terms: Terms, layout: Layout, now: float) -> None:
        self.operations = Operations(
            terms.chain, layout, terms.layers, terms.prepare_timeout_s, terms.finish_timeout_s
        )
        self._terms, rules = terms, terms.policy.layout
        self.books = books = Books(
            self.operations,
            Calibration(terms.capacity, terms.max_rows, terms.saved_table),
            LoadBook(terms.workers),
            LongBook(terms.workers, now),
            opened=now,
        )
        self._rules = (
            FixedLayout()
            if rules is None
            else LayoutKeeper(rules, terms.chain, terms.initial_degree, books, now)
        )
        self._admission = Admission(terms, self._rules, books)
        self._flush = CacheFlush(terms.workers)
        self._paused = self._open = False
        self._later: deque[Event] = deque()
        # By rank, what its device has counted.
        self._device_figures: dict[int, dict[str, float]] = {}
        self._takers: dict[type, Callable[[Any, float], list[Effect]]] = {
            events.Opened: self._opened,
            events.Arrival: self._arrival,
            events.Abort: self._abort,
            events.StateAsked: self._state_asked,
            events.ViewAsked: self._view_asked,
            events.LoadAsked: self._load_asked,
            events.TransformAsked: self._transform_asked,
            events.WeightsAsked: self._weights_asked,
            events.FlushAsked: self._flush_asked,
            events.PauseAsked: self._pause_asked,
            events.LoadsRead: self._loads_read,
            events.Tick: self._tick,
            reports.Vote: lambda vote, now: self._settled(self.operations.vote(vote, now), now),
            reports.Progress: self._progress,
            reports.Done: lambda done, now: self._settled(self.operations.done(done, now), now),
            reports.StepsMeasured: self._steps_measured,
            reports.LongRequestsHere: self._long_requests_here,
            reports.IdleAnswer: self._idle_answer,
        }

    @property
    def base(self) -> int:
        """The degree of instances without long requests."""
        return self._rules.base

    @property
    def limits(self) -> RequestLimits:
        """What requests may have now."""
        return self._rules.limits(self._terms.capacity, self.operations.layout)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; returns what to do, in order."""
        if self._flush.asking and isinstance(event, _ADDS_WORK):
            self._later.append(event)
            return []
        effects = self._takers[type(event)](event, now)
        effects += self._follow_flush(now)
        while self._later and not self._flush.asking:
            late = self._later.popleft()
            effects += self._takers[type(late)](late, now)
            effects += self._follow_flush(now)
        return effects

    # Requests

    def _arrival(self, event: events.Arrival, now: float) -> list[Effect]:
        request = event.request
        degree = self._admission.degree_of(request)
        if degree is not None:
            self._rules.arrive(request.size, degree, now)
        verdict = self._admission.submit(request, now)
        return [] if isinstance(verdict, Wait) else [verdict]

    def _abort(self, event: events.Abort, now: float) -> list[Effect]:
        self.books.longs.abort(event.names)
        named = self._admission.abort(event.names)
        ends = [Cancel(request, event.payload) for request in named]
        return [*ends, Forward(event.payload)]

    # Questions and control requests

    def _state_asked(self, event: events.StateAsked, now: float) -> list[Effect]:
        loads, figures = self.books.loads.snapshots, list(self._device_figures.values())
        body = describe_server(self._terms, self.operations, loads, figures, now)
        body["throughput"] = self.books.calibration.describe()
        body.update(self._rules.describe(now))
        return [Answer(event.waiter, 200, body)]

    def _view_asked(self, event: events.ViewAsked, now: float) -> list[Effect]:
        body = describe_view(self._terms, self.books, self._rules, event.since, now)
        return [Answer(event.waiter, 200, body)]

    def _load_asked(self, event: events.LoadAsked, now: float) -> list[Effect]:
        waiting = [waiting.long for waiting in self.books.queue]
        return [
            Answer(event.waiter, 200, {"loads": describe_loads(self.books.loads.loads, waiting)})
        ]

    def _transform_asked(self, event: events.TransformAsked, now: float) -> list[Effect]:
        return self._submit(event.transform, event.waiter, now)

    def _weights_asked(self, event: events.WeightsAsked, now: float) -> list[Effect]:
        reason = weight_access.refusal(event.what, self.operations, self._terms.no_weights)
        if reason is None:
            return [Forward(event.payload)]
        return [RefuseControl(event.payload, reason)]

    def _pause_asked(self, event: events.PauseAsked, now: float) -> list[Effect]:
        self._paused = event.paused
        return [Forward(event.payload)]

    def _flush_asked(self, event: events.FlushAsked, now: float) -> list[Effect]:
        self._flush.start(event.timeout_s, event.payload, now)
        return []

    def _follow_flush(self, now: float) -> list[Effect]:
        return self._flush.step(self._why_busy(), now) if self._flush.wanted else []

    def _why_busy(self) -> str | None:
        """Why caches cannot be flushed, as far as the desk knows; None if it knows of nothing.

        In a paused server what waits holds no KV, and does not stop a flush.
        """
        running, waiting = self.operations.running, self.books.waiting
        if running is not None:
            return f"operation {running['operation_id']} is running"
        if self._paused:
            return None
        if waiting:
            return f"{waiting} requests wait in the router"
        busy = [rank for rank, load in enumerate(self.books.loads.loads) if load.requests]
        return f"ranks {busy} are busy" if busy else None

    # Reports

    def _loads_read(self, event: events.LoadsRead, now: float) -> list[Effect]:
        self.books.loads.update(event.snapshots)
        return []

    def _progress(self, progress: reports.Progress, now: float) -> list[Effect]:
        self.operations.progress(progress, now)
        return []

    def _steps_measured(self, report: reports.StepsMeasured, now: float) -> list[Effect]:
        self.books.calibration.add(report.sums)
        self._device_figures[report.rank] = report.device
        return []

    def _long_requests_here(self, report: reports.LongRequestsHere, now: float) -> list[Effect]:
        self.books.longs.report(report.rank, report.request_ids, report.ended, now)
        return [] if self._flush.asking else [*self._admission.admit(now)]

    def _idle_answer(self, answer: reports.IdleAnswer, now: float) -> list[Effect]:
        self._flush.take(answer)
        return []

    # The layout

    def _opened(self, event: events.Opened, now: float) -> list[Effect]:
        self._open = True
        return []

    def _tick(self, event: events.Tick, now: float) -> list[Effect]:
        effects = self._settled(self.operations.tick(now), now)
        effects += self._admission.expire(now)
        self.books.longs.forget_unseen(now)
        if self._open and not self._flush.asking:
            effects += self._follow_rules(now)
        return effects

    def _follow_rules(self, now: float) -> list[Effect]:
        """Place what has room, and start the transformation that the rules want."""
        effects: list[Effect] = [*self._admission.admit(now)]
        transform = self._rules.next_change(now)
        effects += self._admission.place_short(now)
        if transform is not None:
            started = self._submit(transform, "", now)
            # Nobody waits for the answer to a policy.
            effects += [effect for effect in started if not isinstance(effect, Answer)]
        return effects

    def _submit(self, transform: TransformRequest, waiter: str, now: float) -> list[Effect]:
        target, objection = self.operations.would_reach(transform), None
        if target is not None:
            objection = stranded(self._terms.capacity, self.books, target)
        effects = self.operations.submit(transform, waiter, now, objection)
        return self._settled(effects, now)

    def _settled(self, effects: list[Effect], now: float) -> list[Effect]:
        """With what follows from the end of an operation, before anybody hears of it."""
        found: list[Effect] = []
        for effect in effects:
            found.append(effect)
            if not isinstance(effect, Finished):
                continue
            record = effect.record
            if record.outcome == "done":
                self.books.longs.start_layout(record.ranks, now)
            self._rules.finished(record, now)
            self.books.calibration.finished(record)
            if record.outcome != "unchanged":
                found += [Limits(self.limits), *self._admission.look_again(now)]
        return found
