"""Workers that are threads of this process, of which one runs at a time.

Upstream keeps what it runs with in module globals: they are put back whenever a worker goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from sglang.srt import runtime_context
from sglang.srt.distributed import parallel_state
from sglang.srt.model_executor import forward_context as forward_state

from amoeba_sglang.planes.transport import TransportGroup

_GLOBALS = (
    (runtime_context, "_CONTEXT"),
    (runtime_context, "_PARALLEL"),
    (parallel_state, "_TP"),
    (parallel_state, "_TP_STATE_PATCHED"),
    (forward_state, "_current"),
)
_LATE_SECONDS = 60.0


class Turns:
    """Lets one thread run at a time, which gives way only in `wait`."""

    def __init__(self) -> None:
        self._lock, self._failed, self._begun = threading.Condition(), False, 0

    def run(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each of them returns; they begin in this order, with the globals as they are."""
        start, self._begun = _globals(), 0
        with ThreadPoolExecutor(len(works)) as threads:
            futures = [threads.submit(self._run, *one, start) for one in enumerate(works)]
        _put_back(start)
        return [future.result() for future in futures]

    def _run(self, place: int, work: Callable[[], Any], start: list[Any]) -> Any:
        with self._lock:
            self._lock.wait_for(lambda: self._begun == place, _LATE_SECONDS)
            self._begun += 1
            _put_back(start)
            try:
                return work()
            except BaseException:
                self._failed = True
                raise
            finally:
                self._lock.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        present = _globals()
        self._lock.notify_all()
        self._lock.wait_for(lambda: self._failed or until(), _LATE_SECONDS)
        _put_back(present)
        assert until(), "a peer failed or did not come"


def _globals() -> list[Any]:
    return [getattr(module, name) for module, name in _GLOBALS]


def _put_back(values: list[Any]) -> None:
    for (module, name), value in zip(_GLOBALS, values, strict=True):
        setattr(module, name, value)


class Circle(TransportGroup):
    """A transport among such threads, and in the place of upstream's GroupCoordinator, whose sums
    it takes. `gathered`: calls of `all_gather`."""

    def __init__(self, rank: int, size: int, turns: Turns, rounds: dict[int, dict]) -> None:
        self.rank, self.size, self.timeout_s = rank, size, _LATE_SECONDS
        self.rank_in_group, self.world_size = rank, size
        self._turns, self._rounds, self._turn = turns, rounds, 0
        self.gathered = 0

    @classmethod
    def of(cls, size: int, turns: Turns) -> list[Circle]:
        rounds: dict[int, dict] = {}
        return [cls(rank, size, turns, rounds) for rank in range(size)]

    def _meet(self, value: Any) -> list[Any]:
        arrived = self._rounds.setdefault(self._turn, {})
        self._turn += 1
        arrived[self.rank] = value
        self._turns.wait(lambda: len(arrived) == self.size)
        return [arrived[rank] for rank in range(self.size)]

    def barrier(self) -> None:
        self._meet(None)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(sum(self._meet(x.clone())))

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        self.gathered += 1
        return torch.cat(self._meet(x.clone()), dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        parts = self._meet(x.clone())
        assert [len(part) for part in parts] == list(rows)
        return torch.cat(parts)

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        return [words.copy() for words in self._meet(record)]

    def close(self) -> None:
        """Nothing to release."""


class AtOnce(Executor):
    """A helper that copies when it is asked to, before the worker goes on."""

    def submit(self, act: Callable[..., Any], *args: Any) -> Future:
        future: Future = Future()
        future.set_result(act(*args))
        return future
