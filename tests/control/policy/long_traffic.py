"""Long requests that come, are served and end, under layout rules: no clock, no server."""

from dataclasses import dataclass, field
from typing import Any

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import (
    Change,
    Decision,
    LayoutRules,
    LongRequest,
    Scene,
    WorkerLoad,
)

TICK_S = 0.1
CHANGE_S = 0.3


@dataclass(frozen=True)
class Coming:
    """A long request: when it comes, the degree that it needs, and how long it is served."""

    at: float
    degree: int
    seconds: float


@dataclass
class Traffic:
    """Plays `coming` on `workers` workers. A request ends `seconds` after it was placed.

    knowledge: fields of the scene about step costs and traffic."""

    rules: LayoutRules
    coming: list[Coming]
    workers: int = 8
    base: int = 1
    pinned: frozenset[int] = frozenset()
    loads: tuple[WorkerLoad, ...] = ()
    knowledge: dict[str, Any] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    homes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    changes: list[tuple[float, Change]] = field(default_factory=list)
    most_lent: int = 0

    def __post_init__(self) -> None:
        self.now = 0.0
        self.chain = DegreeChain((1, 2, 4, 8))
        self.layout = Layout.uniform(self.workers, self.base)
        self.loads = self.loads or (WorkerLoad(),) * self.workers
        self.quiet_since = [0.0] * self.workers
        self.waiting: list[LongRequest] = []
        self.living: dict[str, tuple[int, float]] = {}
        self.running: tuple[float, Change] | None = None

    def play(self, until: float) -> None:
        """Until all is served; an error after `until` seconds."""
        left = sorted(enumerate(self.coming), key=lambda item: item[1].at)
        seconds = {f"long-{number}": one.seconds for number, one in left}
        while left or self.waiting or self.living or self.running:
            assert self.now < until, (self.now, self.waiting, self.living, self.layout)
            while left and left[0][1].at <= self.now:
                number, one = left.pop(0)
                self.waiting.append(LongRequest(f"long-{number}", 1000, one.degree, self.now))
            self._end_what_is_over()
            self._place(seconds)
            self._transform()
            self.now += TICK_S

    def idle(self, seconds: float) -> None:
        """Let nothing come for a while."""
        end = self.now + seconds
        while self.now < end:
            self._end_what_is_over()
            self._transform()
            self.now += TICK_S

    def scene(self) -> Scene:
        heads: dict[int, LongRequest] = {}
        for request in self.waiting:
            heads.setdefault(request.degree, request)
        counts = [0] * self.workers
        for rank, _ in self.living.values():
            counts[rank] += 1
        return Scene(
            self.chain, self.layout, self.base, self.loads, tuple(counts), tuple(self.quiet_since),
            tuple(heads.values()), len(self.waiting), self.pinned, {}, self.now,
            **self.knowledge,
        )  # fmt: skip

    def _end_what_is_over(self) -> None:
        for name, (rank, end) in list(self.living.items()):
            if self.now >= end:
                del self.living[name]
                if all(home != rank for home, _ in self.living.values()):
                    self.quiet_since[rank] = self.now

    def _place(self, seconds: dict[str, float]) -> None:
        for degree in self.chain.degrees:
            for request in [one for one in self.waiting if one.degree == degree]:
                decision = self.rules.admit(request, self.scene(), self._able(degree))
                if not isinstance(decision, Decision):
                    assert decision.reason
                    break
                assert decision.rank in self._able(degree)
                self.waiting.remove(request)
                self.waits[request.request_id] = self.now - request.since
                self.homes[request.request_id] = self.layout.instance_of(decision.rank)
                end = self.now + seconds[request.request_id]
                self.living[request.request_id] = (decision.rank, end)

    def _able(self, degree: int) -> tuple[int, ...]:
        changing = () if self.running is None else self.running[1].ranks
        return tuple(
            ranks[0]
            for ranks in self.layout.instances
            if len(ranks) >= degree and not set(ranks) & set(changing)
        )

    def _transform(self) -> None:
        if self.running is not None:
            end, change = self.running
            if self.now < end:
                return
            self.running = None
            self.layout = self.layout.change(self.chain, change.ranks, change.degree)
            for rank in change.ranks:
                self.quiet_since[rank] = self.now
        lent = sum(degree > self.base for degree in self.layout.degrees)
        self.most_lent = max(self.most_lent, lent)
        change = self.rules.change(self.scene())
        if change is None:
            return
        degrees = {self.layout.degrees[rank] for rank in change.ranks}
        assert degrees != {change.degree}, change
        assert not self.scene().longs_of(change.ranks), "a worker with long requests refuses"
        assert not self.pinned & set(change.ranks), change
        self.changes.append((self.now, change))
        self.running = (self.now + CHANGE_S, change)
