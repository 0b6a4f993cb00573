"""What the router believes about the load of every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from amoeba_sglang.policy.base import WorkerLoad

# What is sent to a worker is there for its next look after so long.
_DELIVERY_S = 0.002


class Snapshot(Protocol):
    """The fields of SGLang's LoadSnapshot that are read; tokens include those still to prefill.

    timestamp: when the worker last looked for requests before it counted.
    """

    timestamp: float
    dp_rank: int
    num_running_reqs: int
    num_waiting_reqs: int
    num_total_tokens: int
    num_waiting_uncached_tokens: int


class LoadBook:
    """The last snapshot of every worker, plus the requests sent that it does not count yet.

    Workers publish once a step; without these a burst would all go to one worker. `now`: the clock
    of the snapshots, seconds since the epoch.
    """

    def __init__(self, workers: int, now: Callable[[], float]) -> None:
        self._now = now
        self._loads = [WorkerLoad() for _ in range(workers)]
        self._timestamps = [0.0] * workers
        # By rank, of every request sent since the last snapshot: when, and its prompt tokens.
        self._sent: list[list[tuple[float, int]]] = [[] for _ in range(workers)]

    @property
    def loads(self) -> tuple[WorkerLoad, ...]:
        return tuple(self._loads)

    def update(self, snapshots: Iterable[Snapshot]) -> None:
        """Take over the snapshots that are newer than the ones known."""
        for snapshot in snapshots:
            rank = snapshot.dp_rank
            if snapshot.timestamp == self._timestamps[rank]:
                continue
            self._timestamps[rank] = snapshot.timestamp
            self._loads[rank] = WorkerLoad(
                snapshot.num_running_reqs,
                snapshot.num_waiting_reqs,
                snapshot.num_total_tokens,
                snapshot.num_waiting_uncached_tokens,
            )
            counted = snapshot.timestamp - _DELIVERY_S
            self._sent[rank] = [one for one in self._sent[rank] if one[0] > counted]
            for _, prompt_tokens in self._sent[rank]:
                self._count(rank, prompt_tokens)

    def add(self, rank: int, prompt_tokens: int) -> None:
        """Count a request that was just sent to `rank`."""
        self._sent[rank].append((self._now(), prompt_tokens))
        self._count(rank, prompt_tokens)

    def _count(self, rank: int, prompt_tokens: int) -> None:
        load = self._loads[rank]
        self._loads[rank] = replace(
            load,
            queued=load.queued + 1,
            tokens=load.tokens + prompt_tokens,
            to_prefill=load.to_prefill + prompt_tokens,
        )
