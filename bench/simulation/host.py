"""One host: a policy that places requests and changes the layout of its simulated workers."""

from __future__ import annotations

import math
from collections.abc import Callable

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.policy import (
    Change,
    Decision,
    LongRequest,
    Policy,
    RequestSize,
    Scene,
    View,
    WorkerLoad,
)
from amoeba_sglang.policy.setting import SETTING
from amoeba_sglang.policy.traffic import TrafficBook
from bench.simulation.clock import Clock
from bench.simulation.instance import Batching, Instance
from bench.simulation.mechanisms import Mechanism
from bench.simulation.worker import Request, Worker

# The router looks at the layout so often while long requests wait or a layout is not at its base.
TICK_S, IDLE_TICK_S = 0.1, 5.0
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0


class Host:
    """`workers` workers that begin at the degrees of `layout`, or at the policy's base degree.

    changes: (time, ranks, degree, reason) of every transformation that was made. paused_s: seconds
    that workers did not compute because of them. merged_s: seconds of workers above the base.
    """

    def __init__(
        self,
        clock: Clock,
        policy: Policy,
        mechanism: Mechanism,
        batching: Batching,
        workers: int,
        layout: Layout | None,
        finished: Callable[[Request, float], None],
    ) -> None:
        self.clock, self.policy, self.mechanism, self.batching = clock, policy, mechanism, batching
        self.chain = DegreeChain(tuple(d for d in sorted(mechanism.tokens) if workers % d == 0))
        self.table = mechanism.table()
        self.workers = [Worker(rank) for rank in range(workers)]
        self.changes: list[tuple[float, tuple[int, ...], int, str]] = []
        self.paused_s = self.merged_s = self.requests = 0.0
        self.traffic = TrafficBook(SETTING.traffic_s)
        self.base, self.base_since, self._finished = 1, 0.0, finished
        self.fixed = layout is not None
        self.waiting: dict[int, dict[int, tuple[LongRequest, Request]]] = {}
        self.longs = [0] * workers
        self.quiet_since = [0.0] * workers
        self.operation: Change | None = None
        self._refused: dict[tuple[tuple[int, ...], int], float] = {}
        self._delays: dict[tuple[tuple[int, ...], int], float] = {}
        self._stopping: set[int] = set()
        self._placed, self._tick_at, self._lent_at = 0, math.inf, 0.0
        self.layout = layout or Layout.uniform(workers, 1)
        if not self.fixed and policy.layout is not None:
            first = policy.layout.base(self.scene(0.0))
            if first is not None:
                self.base = first.degree
                self.layout = Layout.uniform(workers, self.base)
        self._build_instances()
        if not self.fixed:
            self._schedule_tick(0.0)

    # Requests

    def arrive(self, request: Request, now: float) -> None:
        """A request of which `degree` says the smallest degree that holds it."""
        self.requests += 1
        size = RequestSize(request.prompt, request.output)
        if self.fixed:
            self._place(request, size, self._able(request), now)
            return
        self.traffic.add(size, request.degree, now)
        if request.degree > self.base:
            long = LongRequest(
                str(request.number), request.tokens, request.degree, now, request.prompt,
                int(self.requests),
            )  # fmt: skip
            self.waiting.setdefault(request.degree, {})[request.number] = long, request
            self.control(now)
        else:
            self._place(request, size, self._able(request), now)

    def _able(self, request: Request) -> tuple[int, ...]:
        """All if none holds it yet: while the base degree rises, it waits for that at a worker."""
        tokens, degrees = self.mechanism.tokens, self.layout.degrees
        able = [rank for rank, degree in enumerate(degrees) if tokens[degree] >= request.tokens]
        return tuple(able or range(len(degrees)))

    def _place(
        self, request: Request, size: RequestSize, able: tuple[int, ...], now: float
    ) -> None:
        instances = self.layout.instances
        reserved = frozenset(
            rank for ranks in instances if len(ranks) > self.base for rank in ranks
        )
        view = View(instances, self.loads(), self._placed, able, reserved, self.table)
        self._placed += 1
        self._send(request, self.policy.place(size, view).rank, now)

    def _send(self, request: Request, rank: int, now: float) -> None:
        self.workers[rank].add(request, now)
        instance = self.instance_of[rank]
        instance.arrive(now)
        self._proceed(instance, now)

    def loads(self) -> tuple[WorkerLoad, ...]:
        return tuple(
            WorkerLoad(
                len(worker.rows) + len(worker.prefilling),
                len(worker.queue),
                worker.context + worker.prompts,
                worker.to_prefill,
            )
            for worker in self.workers
        )

    # Steps

    def _build_instances(self) -> None:
        self.instance_of: list[Instance] = []
        for ranks in self.layout.instances:
            members = [self.workers[rank] for rank in ranks]
            base = len(ranks) if self.fixed else self.base
            instance = Instance(members, self.mechanism, self.batching, base, self._end)
            self.instance_of += [instance] * len(ranks)

    def _proceed(self, instance: Instance, now: float) -> None:
        """Begin a step if none runs; announce the end of the one that does."""
        if not instance.busy and not instance.stopping:
            instance.start_step(now)
        if instance.busy and instance.announced != instance.epoch:
            instance.announced = instance.epoch
            self.clock.at(instance.event, lambda at: self._end_step(instance, at), instance)

    def _end_step(self, instance: Instance, now: float) -> None:
        instance.end_step()
        if instance.stopping:
            self._begin_change_if_all_stand(now)
        else:
            self._proceed(instance, now)

    def _end(self, request: Request, now: float) -> None:
        if not self.fixed and request.degree > self.base:
            rank = request.home
            self.longs[rank] -= 1
            if not self.longs[rank]:
                self.quiet_since[rank] = now
            self.clock.at(now, self.control)
        self._finished(request, now)

    # The layout

    def scene(self, now: float) -> Scene:
        heads = [next(iter(queue.values()))[0] for queue in self.waiting.values() if queue]
        return Scene(
            self.chain, self.layout, self.base, self.loads(), tuple(self.longs),
            tuple(self.quiet_since), tuple(sorted(heads, key=lambda long: long.since)),
            sum(map(len, self.waiting.values())), frozenset(), self._refused, now, self.table,
            self.traffic.classes(now), self.traffic.evidence(now), self.base_since,
        )  # fmt: skip

    def control(self, now: float) -> None:
        """What the router does after every event: admit what has room, change the layout."""
        rules = self.policy.layout
        assert rules is not None
        self._admit(now)
        if self.operation is not None:
            return
        scene = self.scene(now)
        new = rules.base(scene)
        if new is not None:
            self._set_base(new.degree, now)
            scene = self.scene(now)
        change = rules.change(scene)
        if change is not None:
            self._begin(change, now)
        self._schedule_tick(now)

    def _schedule_tick(self, now: float) -> None:
        unsettled = any(self.waiting.values()) or self.operation is not None
        unsettled |= any(degree != self.base for degree in self.layout.degrees)
        at = now + (TICK_S if unsettled else IDLE_TICK_S)
        if at < self._tick_at or self._tick_at <= now:
            self._tick_at = at
            self.clock.at(at, self._tick)

    def _tick(self, now: float) -> None:
        if now == self._tick_at:
            self._tick_at = math.inf
            self.control(now)
            self._schedule_tick(now)

    def _set_base(self, degree: int, now: float) -> None:
        """Long requests that live here stay long until they end; nobody is counted twice."""
        self.base, self.base_since = degree, now
        for instance in set(self.instance_of):
            instance.set_base(degree)
        self.longs = [self._longs_at(worker) for worker in self.workers]
        for held in [held for need, held in self.waiting.items() if need <= degree]:
            for _, request in held.values():
                size = RequestSize(request.prompt, request.output)
                self._place(request, size, self._able(request), now)
            held.clear()

    def _longs_at(self, worker: Worker) -> int:
        return sum(request.degree > self.base for request in (*worker.running(), *worker.queue))

    def _admit(self, now: float) -> None:
        rules, changing = self.policy.layout, set()
        assert rules is not None
        if self.operation is not None:
            changing = set(self.operation.ranks)
        for queue in self.waiting.values():
            while queue:
                number, (long, request) = next(iter(queue.items()))
                able = tuple(
                    ranks[0]
                    for ranks in self.layout.instances
                    if self.mechanism.tokens[len(ranks)] >= request.tokens
                    and ranks[0] not in changing
                )
                decision = rules.admit(long, self.scene(now), able)
                if not isinstance(decision, Decision):
                    break
                del queue[number]
                self.longs[decision.rank] += 1
                self._send(request, decision.rank, now)

    # Transformations

    def _begin(self, change: Change, now: float) -> None:
        """All of the block stop after their step; a block that does not fit refuses."""
        if not self._fits(change):
            key = change.ranks, change.degree
            delay = min(_LAST_RETRY_S, 2 * self._delays.get(key, _FIRST_RETRY_S / 2))
            self._delays[key], self._refused[key] = delay, now + delay
            return
        self._delays.pop((change.ranks, change.degree), None)
        self.operation = change
        for instance in self._changing():
            instance.stop(now)
            if instance.busy:
                self._proceed(instance, now)
        self._begin_change_if_all_stand(now)

    def _fits(self, change: Change) -> bool:
        """Whether what runs in the block fits into its instances after the change."""
        for first in range(change.ranks[0], change.ranks[-1] + 1, change.degree):
            members = self.workers[first : first + change.degree]
            if self.longs[first] and change.degree < self.layout.degrees[first]:
                return False
            if sum(worker.used for worker in members) > self.mechanism.tokens[change.degree]:
                return False
        return True

    def _changing(self) -> list[Instance]:
        assert self.operation is not None
        return list(dict.fromkeys(self.instance_of[rank] for rank in self.operation.ranks))

    def _begin_change_if_all_stand(self, now: float) -> None:
        if any(instance.busy for instance in self._changing()):
            return
        change = self.operation
        assert change is not None
        members = [self.workers[rank] for rank in change.ranks]
        live = sum(worker.live() for worker in members)
        before = max(self.layout.degrees[rank] for rank in change.ranks)
        pause = self.mechanism.change_s(before, change.degree, live)
        if self.mechanism.loses_kv:
            for worker in members:
                worker.restart()
        self.paused_s += pause * len(members)
        self.changes.append((now, change.ranks, change.degree, change.reason))
        self.clock.at(now + pause, self._end_change)

    def _end_change(self, now: float) -> None:
        change = self.operation
        assert change is not None
        self.operation = None
        lent = sum(degree > self.base for degree in self.layout.degrees)
        self.merged_s += lent * (now - self._lent_at)
        self._lent_at = now
        self.layout = self.layout.change(self.chain, change.ranks, change.degree)
        for first in range(change.ranks[0], change.ranks[-1] + 1, change.degree):
            members = self.workers[first : first + change.degree]
            instance = Instance(members, self.mechanism, self.batching, self.base, self._end)
            self.instance_of[first : first + change.degree] = [instance] * change.degree
            for worker in members:
                self.quiet_since[worker.rank] = now
            self._proceed(instance, now)
        self.control(now)
