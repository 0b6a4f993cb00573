"""What the workers of a world are connected to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from amoeba_sglang.adapters.worker.connections import Groups
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import Report
from amoeba_sglang.planes.transport import PeerLostError
from tests.world.plane import WorldPlane, make_world_plane
from tests.world.stage import STAGE

# Virtual time starts here, so that nothing is at 0.
EPOCH = 1_000_000.0
# What a message to the router, a bell and a wake-up among peers take at most, in seconds.
BELL_SECONDS, WAKE_SECONDS = 1e-4, 2e-5


class WorldClock:
    """The virtual clock; for upstream's code as well, see `runner.virtual_time`."""

    def now(self) -> float:
        return EPOCH + (STAGE.loop.now if STAGE.playing else 0.0)

    wall = now

    def since(self, wall: float) -> float:
        return self.now() - wall

    def sleep(self, seconds: float) -> None:
        if STAGE.playing and STAGE.loop.current is not None:
            STAGE.loop.current.sleep(seconds)


class WorldBell:
    """Keeps what was rung and not yet heard; a datagram takes a moment."""

    by_rank: dict[int, WorldBell] = {}

    def __init__(self, rank: int) -> None:
        self.rank, self.tags = rank, set()
        WorldBell.by_rank[rank] = self

    def fileno(self) -> int:
        return 0

    def ring(self, ranks: Iterable[int], tag: tuple[int, int]) -> None:
        play = STAGE.play
        for rank in ranks:
            play.loop.after(
                BELL_SECONDS * play.random("bell", self.rank).random(),
                lambda rank=rank: WorldBell.by_rank[rank].hear(tag),
            )

    def hear(self, tag: tuple[int, int]) -> None:
        self.tags.add(tag)
        STAGE.play.poke(self.rank)

    def rung(self, tag: tuple[int, int]) -> bool:
        tags, self.tags = self.tags, set()
        return tag in tags


class WorldLink:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def send(self, report: Report) -> None:
        STAGE.play.report(self.rank, report)


class Meeting:
    """What the ranks of one group share: records by round, and who waits for the others."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[int, np.ndarray]] = {}
        self.taken: dict[int, int] = {}
        self.waiters: dict[int, list[Any]] = {}


class WorldGroup:
    """A transport that only exchanges records: no tensor is computed. Whoever waits for a rank that
    makes no progress for `timeout_s` virtual seconds loses it, as in a live group."""

    def __init__(self, name: str, ranks: tuple[int, ...], rank: int, timeout_s: float) -> None:
        self.name, self.ranks, self.phase, self.timeout_s = name, ranks, "", timeout_s
        self.rank, self.size = ranks.index(rank), len(ranks)
        self._turn = 0
        self._meeting = STAGE.meetings.setdefault((name, ranks), Meeting())

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        play, meeting, turn = STAGE.play, self._meeting, self._turn
        self._turn += 1
        arrived = meeting.rounds.setdefault(turn, {})
        arrived[self.rank] = np.array(record, copy=True)
        if len(arrived) == self.size:
            for fiber in meeting.waiters.pop(turn, []):
                fiber.wake(WAKE_SECONDS * play.random("wake", *self.ranks).random())
        else:
            fiber = play.loop.current
            meeting.waiters.setdefault(turn, []).append(fiber)
            self._wait(fiber, arrived)
        records = [arrived[rank].copy() for rank in range(self.size)]
        meeting.taken[turn] = meeting.taken.get(turn, 0) + 1
        if meeting.taken[turn] == self.size:
            del meeting.rounds[turn], meeting.taken[turn]
        return records

    def barrier(self) -> None:
        self.exchange(np.zeros(0, dtype=np.int64))

    def _wait(self, fiber: Any, arrived: dict[int, np.ndarray]) -> None:
        """Until all have arrived; PeerLostError names those that are lost."""
        play, started = STAGE.play, STAGE.play.loop.now
        while len(arrived) < self.size:
            if fiber.park(f"{self.name} of {self.ranks}", timeout=1.0):
                continue
            late = [rank for i, rank in enumerate(self.ranks) if i not in arrived]
            for lost, why in play.faults.lost_peers(late, self.timeout_s, since=started):
                raise PeerLostError(lost, f"{self.phase}", play.loop.now - started, why)


class Promise(Future):
    """Work of the helper: done by whoever waits for it, since only then it must have ended."""

    def __init__(self, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__()
        self._act, self._args = act, args

    def result(self, timeout: float | None = None) -> Any:
        return self._act(*self._args)


class WorldHelper(Executor):
    def submit(self, act: Callable[..., Any], *args: Any) -> Promise:
        return Promise(act, args)


class WorldSurroundings:
    """Of the worker of `rank`; `workers` and `timeout_s` as of the server's configuration."""

    def __init__(self, rank: int, workers: int, timeout_s: float) -> None:
        self._rank, self._workers, self._timeout_s = rank, workers, timeout_s
        self._shared = 0
        self.clock = WorldClock()

    def share_words(self) -> np.ndarray:
        self._shared += 1
        return STAGE.words.setdefault(self._shared, np.zeros(self._workers, dtype=np.int64))

    def connect(self, chain: DegreeChain, progress: np.ndarray) -> Groups:
        STAGE.progress = progress
        transports, moving = {}, {}
        for degree in chain.degrees[1:]:
            first = self._rank // degree * degree
            ranks = tuple(range(first, first + degree))
            transports[degree] = WorldGroup("step", ranks, self._rank, self._timeout_s)
            moving[degree] = None, WorldGroup("move", ranks, self._rank, self._timeout_s)
        return Groups(transports, moving)

    def plane(self, scheduler: Any, rank: int, groups: Groups) -> WorldPlane:
        return make_world_plane(scheduler, rank)

    def bell(self, rank: int) -> WorldBell:
        return WorldBell(rank)

    def link(self, rank: int) -> WorldLink:
        return WorldLink(rank)

    def helper(self) -> WorldHelper:
        return WorldHelper()
