"""What a worker does between planning a step and running it, as explicit states: pure.

    alone      its own steps, nobody to agree with
    merged     in step with the workers of its instance
    asleep     merged, and nobody of the instance has work
    changing   in step with the whole block of an order, while layers change their degree

An order goes through stages of its own, at most one at a time: undecided (PREPARE has come), voted
(yes, and the planned step may begin late), committed (COMMIT has come, and the block is to be met).

`receive` and `turn` are generators: they yield what is to be done next and are sent the result, so
that the order in which things happen can be read, and tested without any worker.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class Order(Protocol):
    """The fields of a TransformOrder that are read: what a block of ranks is to do. `before`,
    `after`: degrees by place in `ranks`, which are aligned and ascend."""

    phase: str
    operation_id: str
    epoch: int
    ranks: list[int]
    before: list[int]
    after: list[int]


class Record(Protocol):
    """The fields of a StepRecord that are read."""

    has_work: bool
    order: int


class State(Enum):
    ALONE = "alone"
    MERGED = "merged"
    ASLEEP = "asleep"
    CHANGING = "changing"


# What is to be done, and what is sent back


@dataclass(frozen=True)
class Consider:
    """Say whether the order can be carried out, and get ready for it: a verdict, which is None
    while undecided, "" for yes, else why not."""

    order: Order


@dataclass(frozen=True)
class AskVerdict:
    """Say what has become of the order that was undecided: a verdict."""


@dataclass(frozen=True)
class Vote:
    """Tell the router. `reason`: why not; empty for yes."""

    order: Order
    reason: str


@dataclass(frozen=True)
class StandDown:
    """The order will not be carried out: nothing of it is left."""


@dataclass(frozen=True)
class Approach:
    """Let the planned step begin late, so that it ends nearer to those of `ranks`."""

    ranks: tuple[int, ...]


@dataclass(frozen=True)
class MayMeet:
    """Say whether to meet `ranks` now, which have steps to finish, or to run one step more:
    bool."""

    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Enter:
    """Meet the block of the order, and begin its transformation."""

    order: Order
    since: float


@dataclass(frozen=True)
class Advance:
    """Move the next layers: the degree that this worker has come to, or None while under way."""


@dataclass(frozen=True)
class Limits:
    """Take new requests of what is certain at all of these degrees of this worker."""

    degrees: tuple[int, ...]


@dataclass(frozen=True)
class Join:
    """Step with exactly `ranks` from the next exchange on; only this worker: alone."""

    epoch: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class HasNews:
    """Say whether peers must hear of this worker although it has no rows: bool."""


@dataclass(frozen=True)
class Listen:
    """Say whether somebody has rung with exactly this tag: bool."""

    tag: tuple[int, int]


@dataclass(frozen=True)
class Ring:
    """Wake `ranks`, which sleep."""

    ranks: tuple[int, ...]
    tag: tuple[int, int]


@dataclass(frozen=True)
class Exchange:
    """Tell the peers of this step, and hear them: records by rank. `ready`: epoch of the order that
    this worker is ready to enter, 0 for none."""

    epoch: int
    step: int
    has_work: bool
    ready: int


@dataclass(frozen=True)
class Run:
    """Run the planned step with what the `records` say, or follow the peers if nothing is planned;
    None: without peers. The last effect of a turn."""

    records: list[Any] | None


Effect = (
    Consider | AskVerdict | Vote | StandDown | Approach | MayMeet | Enter | Advance | Limits | Join
    | HasNews | Listen | Ring | Exchange | Run
)  # fmt: skip
Steps = Generator[Effect, Any, None]


class WorkerProtocol:
    """Of the worker of `rank`."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ranks: tuple[int, ...] = (rank,)
        self.epoch = self.step = 0
        self.asleep = False
        self._undecided: Order | None = None
        self._voted: Order | None = None
        self._approached = False
        self._committed: tuple[Order, float] | None = None
        self._changing: Order | None = None

    @property
    def state(self) -> State:
        if self._changing is not None:
            return State.CHANGING
        if len(self.ranks) == 1:
            return State.ALONE
        return State.ASLEEP if self.asleep else State.MERGED

    def receive(self, order: Order, now: float) -> Steps:
        """An order of the router has come, in seconds of the server's clock."""
        if order.phase == "prepare":
            assert self._stageless, f"{order} while another is under way"
            self._undecided = order
            verdict = yield Consider(order)
            yield from self._decide(verdict)
        elif order.phase == "commit":
            assert self._voted is not None and self._voted.epoch == order.epoch, order
            self._voted, self._committed = None, (order, now)
        else:
            self._undecided = self._voted = None
            yield StandDown()

    def turn(self, planned: bool) -> Steps:
        """One planned step, from the plan to its run. `planned`: it has rows."""
        if self._voted is not None and not self._approached:
            self._approached = True
            # One worker of an instance is enough: the others wait for it.
            if self.ranks[0] == self.rank:
                yield Approach(self._strangers(self._voted))
        ready = False
        if self._committed is not None:
            order, _ = self._committed
            ready = yield MayMeet(self._strangers(order))
            if ready and self.state is State.ALONE:
                yield from self._enter()
        yield from self._advance()
        records = yield from self._exchange(planned, ready)
        if self._undecided is not None:
            verdict = yield AskVerdict()
            yield from self._decide(verdict)
        if self._committed is not None and records is not None:
            order, _ = self._committed
            if all(record.order == order.epoch for record in records):
                yield from self._enter()
                yield from self._advance()
                records = yield from self._exchange(planned, False)
        yield Run(records)

    @property
    def _stageless(self) -> bool:
        return self._undecided is None and self._voted is None and self._committed is None

    def _strangers(self, order: Order) -> tuple[int, ...]:
        """Ranks of its block that are not in step with this worker yet."""
        return tuple(rank for rank in order.ranks if rank not in self.ranks)

    def _decide(self, verdict: str | None) -> Steps:
        order = self._undecided
        if order is None or verdict is None:
            return
        self._undecided = None
        if verdict:
            yield StandDown()
        else:
            self._voted, self._approached = order, False
        yield Vote(order, verdict)

    def _enter(self) -> Steps:
        assert self._committed is not None
        (order, since), self._committed = self._committed, None
        yield Enter(order, since)
        self._changing = order
        place = order.ranks.index(self.rank)
        # Nothing that was promised of either is taken back: a request may wait meanwhile.
        yield Limits((order.before[place], order.after[place]))
        yield from self._join(order.epoch, tuple(order.ranks))

    def _advance(self) -> Steps:
        order = self._changing
        if order is None:
            return
        degree = yield Advance()
        if degree is None:
            return
        self._changing = None
        yield Limits((degree,))
        if degree < len(order.ranks):
            first = self.rank // degree * degree
            yield from self._join(order.epoch, tuple(range(first, first + degree)))

    def _join(self, epoch: int, ranks: tuple[int, ...]) -> Steps:
        self.ranks, self.epoch, self.step, self.asleep = ranks, epoch, 0, False
        yield Join(epoch, ranks)

    def _exchange(self, planned: bool, ready: bool) -> Generator[Effect, Any, Any]:
        """Records of all in step, or None alone and while all sleep."""
        if len(self.ranks) == 1:
            return None
        under_way = self._committed is not None or self._changing is not None
        has_work = planned or under_way or (yield HasNews())
        tag = self.epoch, self.step
        if self.asleep:
            # All that sleep are at the same step: a bell for any other is stale, or forged.
            rung = yield Listen(tag)
            if has_work:
                yield Ring(tuple(rank for rank in self.ranks if rank != self.rank), tag)
            elif not rung:
                return None
        order = self._committed[0].epoch if self._committed is not None and ready else 0
        records = yield Exchange(self.epoch, self.step, has_work, order)
        self.step += 1
        self.asleep = not any(record.has_work for record in records)
        return records
