"""For how long a rank waits for its peers: as long as they live, run and get on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.host.process_state import FreezeWatch


@dataclass(frozen=True)
class Patience:
    """A peer is given up when it has been stopped for `freeze_s` seconds, or when its counter in
    `progress` (by world rank, None: there are no counters) has not changed for `timeout_s`."""

    timeout_s: float
    freeze_s: float
    progress: np.ndarray | None


class Wait:
    """One wait, from now on, for peers that are late."""

    def __init__(self, patience: Patience) -> None:
        self.started = time.monotonic()
        self._patience = patience
        self._freezes = FreezeWatch(patience.freeze_s)
        self._seen: dict[int, tuple[int, float]] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def given_up(self, pids: Mapping[int, int]) -> tuple[list[int], str]:
        """World ranks that are given up, and why; `pids`: those of all that are late now."""
        now = time.monotonic()
        frozen = self._freezes.frozen(pids.values(), now)
        if frozen:
            ranks = [rank for rank, pid in pids.items() if pid in frozen]
            return ranks, f"have been stopped for {self._patience.freeze_s:g} s"
        idle = [rank for rank in pids if self._idle_seconds(rank, now) > self._patience.timeout_s]
        return idle, f"made no progress for {self._patience.timeout_s:g} s"

    def _idle_seconds(self, rank: int, now: float) -> float:
        progress = self._patience.progress
        count = 0 if progress is None else int(progress[rank])
        seen, since = self._seen.setdefault(rank, (count, self.started))
        if seen != count:
            self._seen[rank] = count, now
            return 0.0
        return now - since
