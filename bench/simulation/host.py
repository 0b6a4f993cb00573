"""One host: the router's desk over simulated workers, which a mechanism prices."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.policy.base import Policy
from amoeba_sglang.control.reports import Done, LongRequestsHere, TransformReport, Vote
from amoeba_sglang.control.router import effects
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.effects import Effect, Order
from amoeba_sglang.control.router.events import Arrival, Event, LoadsRead, Opened, Tick
from amoeba_sglang.control.router.loads import DELIVERY_S, Snapshot
from amoeba_sglang.control.router.request import Request as Told
from bench.simulation.clock import Clock
from bench.simulation.instance import Batching, Instance
from bench.simulation.mechanisms import Mechanism
from bench.simulation.terms import make_terms, settle
from bench.simulation.worker import Request, Worker

# The desk hears of the time so often while requests wait or a layout is not at its base.
TICK_S, IDLE_TICK_S = 0.1, 5.0
# What is sent is at its worker at once, and counts in a snapshot of the same moment.
_AT_ONCE_S = DELIVERY_S + 1e-6


class Host:
    """`workers` workers that begin in `layout`, which never changes, or as the policy wants it.

    changes: (time, ranks, degree, reason) of every transformation that was made. paused_s: seconds
    that workers did not compute because of them. merged_s: seconds of workers above the base.
    Votes and reports reach the desk at once, loads once a step; what waits is never given up.
    """

    def __init__(
        self,
        clock: Clock,
        policy: Policy,
        mechanism: Mechanism,
        batching: Batching,
        workers: int,
        layout: Layout | None,
        *,
        finished: Callable[[Request, float], None],
        refused: Callable[[Request], None],
    ) -> None:
        self.clock, self.mechanism, self.batching = clock, mechanism, batching
        self._finished, self._refused = finished, refused
        self.fixed = layout is not None
        self.workers = [Worker(rank) for rank in range(workers)]
        self.longs: list[set[str]] = [set() for _ in range(workers)]
        self.changes: list[tuple[float, tuple[int, ...], int, str]] = []
        self.paused_s = self.merged_s = 0.0
        self.requests = 0
        self._at_desk: dict[str, Request] = {}
        self._order: Order | None = None
        self._tick_at, self._lent_at = math.inf, 0.0
        self._events: deque[Event] = deque()
        self._published: dict[int, Snapshot] = {}
        terms = make_terms(policy, mechanism, workers, self.fixed)
        if layout is None:
            layout, base = settle(terms)
            terms = replace(terms, initial_degree=base)
        self._degrees = sorted(set(layout.degrees) if self.fixed else terms.chain.degrees)
        self.desk = Desk(terms, layout, 0.0)
        self._base = self.desk.base
        self.instance_of: list[Instance] = []
        for ranks in layout.instances:
            self.instance_of += [self._make_instance(ranks)] * len(ranks)
        self.tell(Opened(), 0.0)
        self._schedule_tick(0.0)

    @property
    def layout(self) -> Layout:
        return self.desk.operations.layout

    def arrive(self, request: Request, now: float) -> None:
        """A request has come."""
        self.requests += 1
        tokens, name = self.mechanism.tokens, str(request.number)
        fitting = (d for d in self._degrees if tokens[d] >= request.tokens)
        request.degree = next(fitting, self._degrees[-1])
        self._at_desk[name] = request
        self._tell_loads(now)
        told = Told(name, request.prompt, request.output, payload=request)
        self.tell(Arrival(told), now)
        if not self.fixed and request.degree > self._base:
            self._tick(now)

    # The desk

    def tell(self, event: Event, now: float) -> None:
        """Let the desk take an event, and what follows from it."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            for effect in self.desk.handle(self._events[0], now):
                self._carry_out(effect, now)
            self._events.popleft()

    def _tell_loads(self, now: float) -> None:
        if self._published:
            snapshots, self._published = list(self._published.values()), {}
            self.tell(LoadsRead(snapshots), now)

    def _carry_out(self, effect: Effect, now: float) -> None:
        match effect:
            case effects.Send():
                self._send(self._at_desk.pop(effect.request.rid), effect.rank, now)
            case effects.Refuse():
                self._refused(self._at_desk.pop(effect.request.rid))
            case effects.Order(phase="prepare"):
                reason = self._why_not(effect)
                for rank in effect.ranks:
                    self.tell(
                        Vote(rank=rank, epoch=effect.epoch, accept=not reason, reason=reason), now
                    )
            case effects.Order(phase="commit"):
                self._begin(effect, now)
            case effects.Finished(record) if record.outcome == "done":
                self.changes.append((now, record.ranks, record.degree, record.reason))

    def _tick(self, now: float) -> None:
        """Let the desk admit what has room and change the layout."""
        self._tell_loads(now)
        self.tell(Tick(), now)
        if self.desk.base != self._base:
            self._base = self.desk.base
            for instance in set(self.instance_of):
                instance.set_base(self._base)
        self._schedule_tick(now)

    def _schedule_tick(self, now: float) -> None:
        unsettled = self._at_desk or self._order is not None
        unsettled = unsettled or any(degree != self._base for degree in self.layout.degrees)
        at = now + (TICK_S if unsettled else IDLE_TICK_S)
        if not self.fixed and (at < self._tick_at or self._tick_at <= now):
            self._tick_at = at
            self.clock.at(at, self._tick_if_due)

    def _tick_if_due(self, now: float) -> None:
        if now == self._tick_at:
            self._tick_at = math.inf
            self._tick(now)

    # Requests at their workers

    def _send(self, request: Request, rank: int, now: float) -> None:
        self.workers[rank].add(request, now)
        if not self.fixed and request.degree > 1:
            self.longs[rank].add(str(request.number))
            self._report_longs(rank, now)
        instance = self.instance_of[rank]
        instance.arrive(now)
        self._proceed(instance, now)

    def _report_longs(self, rank: int, now: float) -> None:
        self.tell(LongRequestsHere(rank=rank, request_ids=sorted(self.longs[rank])), now)

    def _proceed(self, instance: Instance, now: float) -> None:
        """Begin a step if none runs; announce the end of the one that does."""
        if not instance.busy and not instance.stopping:
            instance.start_step(now)
            self._publish(instance, now)
        if instance.busy and instance.announced != instance.epoch:
            instance.announced = instance.epoch
            self.clock.at(instance.event, lambda at: self._end_step(instance, at), instance)

    def _end_step(self, instance: Instance, now: float) -> None:
        instance.end_step()
        if instance.stopping:
            self._publish(instance, now)
            self._begin_change_if_all_stand(now)
        else:
            self._proceed(instance, now)

    def _publish(self, instance: Instance, now: float) -> None:
        for worker in instance.workers:
            self._published[worker.rank] = Snapshot(
                worker.rank,
                now + _AT_ONCE_S,
                running=len(worker.rows) + len(worker.prefilling),
                waiting=len(worker.queue),
                tokens=worker.context + worker.prompts,
                to_prefill=worker.to_prefill,
            )

    def _end(self, request: Request, now: float) -> None:
        if not self.fixed and request.degree > 1:
            self.longs[request.home].discard(str(request.number))
            self.clock.at(now, lambda at: self._after_a_long_one(request.home, at))
        self._finished(request, now)

    def _after_a_long_one(self, rank: int, now: float) -> None:
        self._report_longs(rank, now)
        self._tick(now)

    # Transformations

    def _make_instance(self, ranks: tuple[int, ...]) -> Instance:
        members = [self.workers[rank] for rank in ranks]
        base = len(ranks) if self.fixed else self._base
        return Instance(members, self.mechanism, self.batching, base, self._end)

    def _why_not(self, order: Order) -> str:
        """Why what runs in the block does not fit into its instances after the change; or empty."""
        degree = max(order.after)
        for first in range(order.ranks[0], order.ranks[-1] + 1, degree):
            used = sum(worker.used for worker in self.workers[first : first + degree])
            if used > self.mechanism.tokens[degree]:
                return f"{used} tokens are used, {self.mechanism.tokens[degree]} would be there"
        return ""

    def _begin(self, order: Order, now: float) -> None:
        """All of the block stop after their step."""
        self._order = order
        for instance in self._changing():
            instance.stop(now)
            if instance.busy:
                self._proceed(instance, now)
        self._begin_change_if_all_stand(now)

    def _changing(self) -> list[Instance]:
        assert self._order is not None
        return list(dict.fromkeys(self.instance_of[rank] for rank in self._order.ranks))

    def _begin_change_if_all_stand(self, now: float) -> None:
        if any(instance.busy for instance in self._changing()):
            return
        order = self._order
        assert order is not None
        members = [self.workers[rank] for rank in order.ranks]
        live = sum(worker.live() for worker in members)
        pause = self.mechanism.change_s(max(order.before), max(order.after), live)
        if self.mechanism.loses_kv:
            for worker in members:
                worker.restart()
            for instance in self._changing():
                self._publish(instance, now)
        self.paused_s += pause * len(members)
        self.clock.at(now + pause, self._end_change)

    def _end_change(self, now: float) -> None:
        order, self._order = self._order, None
        assert order is not None
        lent = sum(degree > self._base for degree in self.layout.degrees)
        self.merged_s += lent * (now - self._lent_at)
        self._lent_at = now
        degree = max(order.after)
        for first in range(order.ranks[0], order.ranks[-1] + 1, degree):
            ranks = tuple(range(first, first + degree))
            self.instance_of[first : first + degree] = [self._make_instance(ranks)] * degree
        for rank in order.ranks:
            self.tell(Done(rank=rank, epoch=order.epoch, report=TransformReport()), now)
        for first in range(order.ranks[0], order.ranks[-1] + 1, degree):
            self._proceed(self.instance_of[first], now)
        self._tick(now)
