"""What a policy sees and what it decides. Pure: no sockets, clock or sglang.

A policy has one rule for requests that any worker can hold, `place`, and may have rules for the
layout: `LayoutRules`. The router asks `admit` for the oldest waiting request of every degree,
`base` and then `change` whenever no transformation runs, after every event and at least every
100 ms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.throughput import RequestClass, ThroughputTable


@dataclass(frozen=True)
class WorkerLoad:
    """One worker: requests running and queued, the tokens that they hold or will prefill, and how
    many of these are still to prefill."""

    running: int = 0
    queued: int = 0
    tokens: int = 0
    to_prefill: int = 0

    @property
    def requests(self) -> int:
        return self.running + self.queued


@dataclass(frozen=True)
class RequestSize:
    """Prompt tokens, and the most output tokens asked for; None if the request names no limit."""

    prompt_tokens: int
    output_tokens: int | None


@dataclass(frozen=True)
class View:
    """The server as `place` sees it: the instances (tuples of ranks), the loads by rank, the
    number of requests placed so far, the ranks that can hold the request, at least one, and those
    whose instance serves long requests.

    table: what steps cost, None before it is known. cached: by rank, for those that have some, how
    many tokens of the prompt they are believed to have cached."""

    instances: tuple[tuple[int, ...], ...]
    loads: tuple[WorkerLoad, ...]
    placed: int
    able: tuple[int, ...]
    reserved: frozenset[int] = frozenset()
    table: ThroughputTable | None = None
    cached: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranks = sorted(rank for instance in self.instances for rank in instance)
        assert ranks == list(range(len(self.loads))), (self.instances, len(self.loads))
        assert self.able and set(self.able) <= set(ranks), (self.able, ranks)


@dataclass(frozen=True)
class Decision:
    """The home of a request, and why, for logs."""

    rank: int
    reason: str


@dataclass(frozen=True)
class Hold:
    """A request keeps waiting; `reason` is what a user is shown."""

    reason: str


@dataclass(frozen=True)
class LongRequest:
    """A request that needs more KV than one worker has. `tokens`: prompt and output; `degree`: the
    smallest that holds it; `since`: when it came, in seconds; `prompt_tokens`: of `tokens`;
    `turn`: how many requests came before it."""

    request_id: str
    tokens: int
    degree: int
    since: float
    prompt_tokens: int = 0
    turn: int = 0


@dataclass(frozen=True)
class Change:
    """Run the aligned block `ranks` as instances of `degree`."""

    ranks: tuple[int, ...]
    degree: int
    reason: str


@dataclass(frozen=True)
class NewBase:
    """From now on instances without long requests run at `degree`."""

    degree: int
    reason: str


@dataclass(frozen=True)
class Scene:
    """The server as the layout rules see it; by rank where a tuple has no other meaning.

    base: the degree without long requests. longs: long requests that live at the rank.
    quiet_since: when the last of these ended, or the rank's instance came to be. waiting: the
    oldest long request of every degree that has one, oldest first; backlog: how many wait in all.
    pinned: ranks whose layout an operator has chosen. refused: changes that workers refused, as
    (ranks, degree), and until when to leave them alone. now: seconds of the same clock.
    table: what steps cost, None before it is known. traffic: the requests that have come lately,
    and evidence, how many these were; None before the first has come. base_since: when the base
    degree was chosen.
    """

    chain: DegreeChain
    layout: Layout
    base: int
    loads: tuple[WorkerLoad, ...]
    longs: tuple[int, ...]
    quiet_since: tuple[float, ...]
    waiting: tuple[LongRequest, ...]
    backlog: int
    pinned: frozenset[int]
    refused: Mapping[tuple[tuple[int, ...], int], float]
    now: float
    table: ThroughputTable | None = None
    traffic: tuple[RequestClass, ...] = ()
    evidence: float | None = None
    base_since: float = 0.0

    def blocks(self, degree: int) -> list[tuple[int, ...]]:
        """All aligned blocks of `degree` ranks."""
        firsts = range(0, self.layout.workers, degree)
        return [tuple(range(first, first + degree)) for first in firsts]

    def longs_of(self, ranks: tuple[int, ...]) -> int:
        """Long requests that live at any of `ranks`."""
        return sum(self.longs[rank] for rank in ranks)

    def is_refused(self, ranks: tuple[int, ...], degree: int) -> bool:
        return self.now < self.refused.get((ranks, degree), self.now)


class LayoutRules(Protocol):
    """When instances merge and split, and which of them a long request enters."""

    def base(self, scene: Scene) -> NewBase | None:
        """Another base degree than the scene's, or None to keep it."""
        ...

    def admit(self, request: LongRequest, scene: Scene, able: tuple[int, ...]) -> Decision | Hold:
        """The home of a long request, or why it waits. `able`: ranks that can hold it now and after
        the transformation that may be running, perhaps none."""
        ...

    def change(self, scene: Scene) -> Change | None:
        """The next transformation, or None."""
        ...


@dataclass(frozen=True)
class Policy:
    """`layout` is None if the layout changes only when asked to; what it cannot hold is refused."""

    place: Callable[[RequestSize, View], Decision]
    layout: LayoutRules | None = None
