"""What the router believes about the load of every worker."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from amoeba_sglang.control.policy.base import WorkerLoad

# What is sent to a worker is there for its next look after so long.
DELIVERY_S = 0.002


@dataclass(frozen=True)
class Snapshot:
    """What a worker says of its load; `tokens` include those still to prefill, of which
    `to_prefill` are not cached. `used_tokens`: in its pool, of `held_tokens` that it has now: of
    its own slots those that are not lent, and what it has grown by and leased.

    taken_at: when the worker last looked for requests before it counted, by the desk's clock.
    """

    rank: int
    taken_at: float
    running: int = 0
    waiting: int = 0
    tokens: int = 0
    to_prefill: int = 0
    used_tokens: int = 0
    held_tokens: int = 0


class LoadBook:
    """The last snapshot of every worker, plus the requests sent that it does not count yet.

    Workers publish once a step; without these a burst would all go to one worker. Times in seconds.
    """

    def __init__(self, workers: int) -> None:
        self._loads = [WorkerLoad() for _ in range(workers)]
        self._snapshots = [Snapshot(rank, 0.0) for rank in range(workers)]
        # By rank, of every request sent since the last snapshot: when, and its prompt tokens.
        self._sent: list[list[tuple[float, int]]] = [[] for _ in range(workers)]

    @property
    def loads(self) -> tuple[WorkerLoad, ...]:
        return tuple(self._loads)

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The last ones, by rank."""
        return tuple(self._snapshots)

    def update(self, snapshots: Iterable[Snapshot]) -> None:
        """Take over what workers have published; to hear the same again changes nothing."""
        for snapshot in snapshots:
            rank = snapshot.rank
            self._snapshots[rank] = snapshot
            self._loads[rank] = WorkerLoad(
                snapshot.running, snapshot.waiting, snapshot.tokens, snapshot.to_prefill
            )
            counted = snapshot.taken_at - DELIVERY_S
            self._sent[rank] = [one for one in self._sent[rank] if one[0] > counted]
            for _, prompt_tokens in self._sent[rank]:
                self._count(rank, prompt_tokens)

    def add(self, rank: int, prompt_tokens: int, now: float) -> None:
        """Count a request that is sent to `rank` now."""
        self._sent[rank].append((now, prompt_tokens))
        self._count(rank, prompt_tokens)

    def _count(self, rank: int, prompt_tokens: int) -> None:
        load = self._loads[rank]
        self._loads[rank] = replace(
            load,
            queued=load.queued + 1,
            tokens=load.tokens + prompt_tokens,
            to_prefill=load.to_prefill + prompt_tokens,
        )
