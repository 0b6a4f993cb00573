"""What the router believes about the load of every worker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from amoeba_sglang.policy.base import WorkerLoad


class Snapshot(Protocol):
    """The fields of SGLang's LoadSnapshot that are read; tokens include those still to prefill."""

    timestamp: float
    dp_rank: int
    num_running_reqs: int
    num_waiting_reqs: int
    num_total_tokens: int
    num_waiting_uncached_tokens: int


class LoadBook:
    """The last snapshot of every worker, plus the requests placed since it was taken.

    Workers publish once a step; without the placed ones a burst would all go to one worker.
    """

    def __init__(self, workers: int) -> None:
        self._loads = [WorkerLoad() for _ in range(workers)]
        self._timestamps = [0.0] * workers

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

    def add(self, rank: int, prompt_tokens: int) -> None:
        """Count a request that was just sent to `rank`."""
        load = self._loads[rank]
        self._loads[rank] = replace(
            load,
            queued=load.queued + 1,
            tokens=load.tokens + prompt_tokens,
            to_prefill=load.to_prefill + prompt_tokens,
        )
