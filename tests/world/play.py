"""Plays one history: delivers messages, takes time, and looks at everything that happens."""

from __future__ import annotations

import copy
import hashlib
import traceback
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from sglang.srt.managers.io_struct import (
    AbortReq,
    BatchTokenIDOutput,
    ContinueGenerationReqInput,
    FlushCacheReqOutput,
    GetWeightsByNameReqOutput,
    PauseGenerationReqInput,
    UpdateWeightFromDiskReqOutput,
)

from amoeba_sglang.adapters.messages import (
    AdminReply,
    LimitsChanged,
    TransformOrder,
    WeightsRefused,
)
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import Done, Report, StepsMeasured
from tests.world import events
from tests.world.checks import Checks
from tests.world.clients import Clients
from tests.world.events import Event, History
from tests.world.faults import Faults
from tests.world.fibers import Loop
from tests.world.front_end import FrontEnd
from tests.world.operator import Operator
from tests.world.rare import Rare
from tests.world.router import WorldRouter
from tests.world.schedulers import Built
from tests.world.shadow import Shadow
from tests.world.stage import STAGE
from tests.world.strikes import Strikes
from tests.world.violation import Violation

# Of a message between processes, at least and beyond that at most, in seconds.
_WIRE_S, _WIRE_MORE_S = 5e-5, 5e-4
# What two messages of one socket are apart: events of the same moment happen in any order.
_IN_ORDER_S = 1e-9
_TICK_S = 0.05
# Everything ends within so many virtual seconds after the last event, beside steps that are slow: a
# request that waits at the router for a layout is answered after 600 s.
_BOUND_S = 700.0


class ServerEnded(Exception):
    """The router ended the server."""


class Play:
    """`trace`: a line for everything that happened, if `traced`; its hash is the identity of the
    run. `counts`: how often what happened. `found`: the first violation, or None."""

    def __init__(self, built: Built, history: History, traced: bool = False) -> None:
        self.built, self.history = built, history
        self.config, self.workers = built.config, built.schedulers
        self.loop = Loop(history.seed)
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.found: Violation | None = None
        self._traced, self._digest = traced, hashlib.sha256()
        self._randoms: dict[tuple[Any, ...], Random] = {}
        allocator, setting = self.workers[0].token_to_kv_pool_allocator, built.setting
        chain = DegreeChain(self.config.degrees)
        size = allocator.num_pages + setting.grown_slots(chain.finest)
        self.shadow = Shadow(self.config.workers, self.config.group_size, chain, size, setting.page)
        self.snapshots: dict[int, Any] = {}
        self.faults, self.rare = Faults(self), Rare(self)
        self.strikes = Strikes(self)
        self._arrived_at = [0.0] * self.config.workers
        self._reported_at = [0.0] * self.config.workers
        STAGE.play = self
        self.router = WorldRouter(self, self.config, self.workers[0])
        self.clients = Clients(history.seed, self.router.desk.limits)
        self.front_end = FrontEnd(self)
        self.operator = Operator(self, chain)
        self.checks = Checks(self)
        self.ended: str | None = None

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()[:16]

    def random(self, *purpose: Any) -> Random:
        """A Random of its own for each purpose, so that fewer events leave the others' as is."""
        found = self._randoms.get(purpose)
        if found is None:
            found = self._randoms[purpose] = Random(f"{self.history.seed}/{purpose}")
        return found

    def note(self, *what: Any) -> None:
        line = f"{self.loop.now:.6f} " + " ".join(map(str, what))
        self._digest.update(line.encode())
        if self._traced:
            self.trace.append(line)

    # The run

    def run(self) -> Play:
        for rank, worker in enumerate(self.workers):
            # What upstream was told of the time while it was built was real.
            worker.received_at = worker.clock.wall()
            self.loop.spawn(
                f"worker {rank}",
                worker.run_event_loop,
                lambda rank=rank: self.built.activate(rank),
            )
        for event in self.history.events:
            self.loop.at(event.at, lambda event=event: self.happen(event))
        self.loop.at(0.0, lambda: self.route(self.router.open))
        self.loop.at(_TICK_S, self._tick)
        try:
            self._run_to_the_end()
        except Violation as violation:
            self.found = violation
        except ServerEnded as end:
            if not self.faults.lost:
                self.found = Violation("the server ends", str(end))
            self.ended = str(end)
        except BaseException as error:
            self._judge_exception(error)
        self.loop.end()
        self.counts["engine steps"] = self.checks.steps
        self.counts["events"] = self.loop.events
        return self

    def _run_to_the_end(self) -> None:
        last = self.history.events[-1].at if self.history.events else 0.0
        slow = sum(e.seconds for e in self.history.events if isinstance(e, events.Slow))
        bound = last + _BOUND_S + 4 * slow

        def over() -> bool:
            if self.loop.now <= last or self.clients.any_open:
                return self.loop.now >= bound
            waits = self.router.operations.running is not None or self.operator.waits
            idle = not waits and self.checks.at_rest()
            return idle or self.loop.now >= bound

        self.loop.run(over)
        if self.loop.now >= bound:
            self.checks.require_ended()
        self.checks.at_the_end()

    def _judge_exception(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        if self.faults.explains(error):
            self.ended = str(error)
            return
        frames = traceback.extract_tb(error.__traceback__)
        kind = f"{type(error).__name__} in {frames[-1].name}"
        self.found = Violation(kind, str(error)[:400], text)

    def _tick(self) -> None:
        self.route(lambda: None)
        self.checks.waiting.look()
        self.loop.after(_TICK_S, self._tick)

    def happen(self, event: Event) -> None:
        """One event of the history."""
        self.counts[type(event).__name__] += 1
        self.note(event)
        if isinstance(event, events.Ask):
            self.front_end.ask(event)
        elif isinstance(event, events.Change):
            self.operator.change(event)
        elif isinstance(event, events.Pause):
            self._pause(event)
        elif isinstance(event, events.AbortAll):
            self.clients.excuse_all("all were aborted")
            self.route(self.router.handle_judged, AbortReq(rid="", abort_all=True))
        elif isinstance(event, events.Flush):
            self.operator.flush(event)
        elif isinstance(event, events.Weights):
            self.operator.touch_weights(event)
        elif isinstance(event, events.Strike):
            self.strikes.arm(event)
        else:
            self.faults.arm(event)

    def _pause(self, event: events.Pause) -> None:
        self.route(self.router.handle_judged, PauseGenerationReqInput(mode=event.mode))
        self.loop.after(
            event.seconds,
            lambda: self.route(self.router.handle_judged, ContinueGenerationReqInput()),
        )

    # Time

    def sleep(self, seconds: float) -> None:
        assert self.loop.current is not None
        self.loop.current.sleep(seconds)

    def step_seconds(self, rank: int, work: Any) -> float:
        """Of a step of a worker; about 10 ms."""
        seconds = 0.008 + 2e-5 * work.context_tokens + 4e-4 * work.prefill_tokens
        seconds *= 0.9 + 0.2 * self.random("step", rank).random()
        return seconds + self.faults.extra_seconds(rank)

    def see_effect(self, worker: Any, effect: Any) -> None:
        """A worker's protocol is about to let this be done."""
        self.rare.see_effect(worker, effect)
        self.strikes.see_effect(worker, effect)

    # Messages

    def route(self, act: Callable[..., Any], *args: Any) -> None:
        """Let the router do something, which takes no time."""
        self.built.activate(0)
        act(*args)
        self.router.on_tick()

    def send(self, rank: int, message: Any) -> None:
        """Router to worker, in order."""
        if isinstance(message, TransformOrder):
            self.rare.see_order(message.epoch)
        delay = _WIRE_S + _WIRE_MORE_S * self.random("wire", rank).random()
        delay += self.faults.delay(rank, to_worker=True)
        at = self._arrived_at[rank] = max(
            self._arrived_at[rank] + _IN_ORDER_S, self.loop.now + delay
        )
        message = copy.copy(message)
        if hasattr(message, "sampling_params"):
            message.sampling_params = copy.copy(message.sampling_params)

        def deliver() -> None:
            self.workers[rank].inbox.messages.append(message)
            self.poke(rank)

        self.loop.at(at, deliver)

    def poke(self, rank: int) -> None:
        """Something readable has come."""
        fiber = self.loop.fibers[rank]
        if fiber.waiting in ("poll", "spin"):
            fiber.wake()

    def report(self, rank: int, report: Report) -> None:
        """Worker to router, in order."""
        self.note("report", rank, _short(report))
        delay = _WIRE_S + _WIRE_MORE_S * self.random("report", rank).random()
        delay += self.faults.delay(rank, to_worker=False)
        at = self._reported_at[rank] = max(
            self._reported_at[rank] + _IN_ORDER_S, self.loop.now + delay
        )

        def arrive() -> None:
            self.rare.see_report(report)
            self.route(self.router.tell, report)

        self.loop.at(at, arrive)

    def from_worker(self, rank: int, output: Any) -> None:
        if isinstance(output, AbortReq):
            self.checks.end(output.rid, output.finished_reason, f"worker {rank}")
        elif isinstance(output, FlushCacheReqOutput):
            self.operator.flushed(output)
        elif isinstance(output, BatchTokenIDOutput):
            parts = zip(output.rids, output.finished_reasons, output.completion_tokens, strict=True)
            for rid, reason, tokens in parts:
                self.clients.by_rid[rid].tokens = tokens
                if reason is not None:
                    self.rare.see_end(self.workers[rank], rid)
                    self.checks.end(rid, reason, f"worker {rank}")
        elif isinstance(output, UpdateWeightFromDiskReqOutput | GetWeightsByNameReqOutput):
            self.operator.touched(output)

    def to_client(self, message: Any) -> None:
        """Router to front end."""
        if isinstance(message, AbortReq):
            self.checks.end(message.rid, message.finished_reason, "the router")
        elif isinstance(message, LimitsChanged):
            self.note("layout", self.router.operations.layout.degrees)
            self.clients.limits = type(self.clients.limits)(**message.limits)
        elif isinstance(message, AdminReply):
            self.operator.answer(message)
        elif isinstance(message, FlushCacheReqOutput):
            self.operator.flushed(message)
        elif isinstance(message, UpdateWeightFromDiskReqOutput | WeightsRefused):
            self.operator.touched(message)

    def end_server(self, reason: str) -> None:
        raise ServerEnded(reason)


def _short(report: Report) -> str:
    """Without figures."""
    if isinstance(report, Done):
        return f"Done({report.epoch}, {report.report.error!r})"
    return "StepsMeasured" if isinstance(report, StepsMeasured) else str(report)
