"""The contract of a device: memory, copies and order of one worker, as its plane needs them."""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from amoeba_sglang.planes.contract import StepEvent
from amoeba_sglang.planes.kv.mover import KVMover
from amoeba_sglang.planes.memory.base import Memory
from amoeba_sglang.planes.transport.base import TransportGroup

logger = logging.getLogger(__name__)
T = TypeVar("T")
Blocks = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""K and V of every layer of a pool."""


class Graph(Protocol):
    """What was launched once, to be launched again with what is in the same memory then."""

    def replay(self) -> None: ...


class Device(ABC):
    """One process's part of a machine.

    The scheduler's thread launches steps on it, and a helper copies beside them: `copy_seconds` and
    what a mover does are the helper's, everything else is the scheduler's thread's.
    """

    lag = 0
    """Steps that still run when the next is planned, if SGLang plans ahead."""

    def __init__(self) -> None:
        self._memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()

    def memory(self, page_size: int) -> Memory:
        """The one that weights and KV share, as long as somebody holds it; see `make_memory`."""
        memory = self._memories.get(page_size)
        if memory is None:
            memory = self._memories[page_size] = self.make_memory(page_size)
        return memory

    @abstractmethod
    def make_memory(self, page_size: int) -> Memory:
        """Pages of this many bytes, for weights and KV; ConfigError if it cannot have such."""

    @abstractmethod
    def make_mover(
        self,
        blocks: Sequence[Blocks],
        group: TransportGroup,
        *,
        finest: int,
        staging_bytes: int,
    ) -> KVMover:
        """What moves KV units between pools of a block, whose workers all reach them.

        `blocks`: by worker index of the block, its pool as this process has it mapped, K and V
        [rows, ...] of every layer. `group`: the workers of the block. `finest`: units of a row.
        `staging_bytes`: memory to put units aside, if that is done.
        """

    @abstractmethod
    def helper(self) -> Executor:
        """One thread that copies beside the steps, in the order that the plane's contract has."""

    @abstractmethod
    def ids(self, numbers: np.ndarray) -> torch.Tensor:
        """int64 indices, where they can index its tensors."""

    def warm_up(self, group: Any) -> None:
        """Let the collectives of SGLang's GroupCoordinator take the memory that they need; all of
        its ranks call it."""
        return

    @abstractmethod
    def capture(self, launch: Callable[[], T], group: Any) -> tuple[Graph, T]:
        """Record what `launch` launches, which runs nothing of it; and what it returns, tensors
        that each replay fills. `group`: SGLang's GroupCoordinator of the ranks that it gathers
        from; they all record the same."""

    @abstractmethod
    def wait(self) -> None:
        """Return when all that this thread has launched has run: its peers may rely on that."""

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all that was launched has run."""

    def launched(self) -> StepEvent | None:
        """The event of all that this thread has launched until now; None where SGLang's own is
        as good."""
        return None

    @abstractmethod
    def copy_seconds(self) -> float:
        """A clock that runs while the calling thread copies."""

    def figures(self) -> Mapping[str, float]:
        """What it has counted since the start, by name."""
        return {}

    def free_bytes(self) -> int | None:
        """Memory that nobody has yet; None where it is not told apart from the host's."""
        return None

    @contextmanager
    def weigh(self, what: str) -> Iterator[None]:
        """Say what is free less afterwards, for users who plan with it."""
        before = self.free_bytes()
        yield
        if before is not None:
            taken = before - (self.free_bytes() or 0)
            logger.info("%s: %.0f MiB of a worker's memory", what, taken / (1 << 20))

    @abstractmethod
    def return_freed_memory(self) -> None:
        """Give back what the allocators keep of what was freed."""

    @abstractmethod
    def crowding(self, workers: int) -> float:
        """Workers whose copies take turns on a part of the machine, of so many that copy."""
