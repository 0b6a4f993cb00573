"""The contract of a plane: what computes and carries bytes for one worker, and decides nothing.

`adapters.cpu.plane` computes, `planes.emulated.plane` only takes the time of it. Control says which
layers go to which degree and when; a plane says how. `adapters.choice` chooses one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.step_executor import StepExecutor


class StepEvent(Protocol):
    """When something that was launched has run; an event of torch's kind."""

    def synchronize(self) -> None: ...


class Plane(ABC):
    """One worker's steps, KV and weights.

    Two threads use it. While a transformation moves layers, its helper calls `move_weights` and
    then `move_units` for these, beside the scheduler's thread, which computes with the layers
    before them; everything else is the scheduler's thread's. Whatever is collective waits for the
    whole block and fails with the transport's PeerLostError.

    A change of degree goes: `refusal` (no vote without it) -> `shrink` -> for a few layers after
    the other `move_weights`, `move_units`, `switch` -> `grow`. Turning round runs the same
    backwards. A MemoryFault leaves everything as it was before the call that raised it, and the
    block turns round together; any other error ends the worker.

    executor: runs the steps; its layers know their degrees. grown: by degree, KV slots that an
    instance has beyond its workers' own pools. crowding: workers whose copies take turns on a core.
    """

    def __init__(
        self, executor: StepExecutor, grown: Mapping[int, int], crowding: float = 1.0
    ) -> None:
        self.executor, self.grown, self.crowding = executor, grown, crowding

    # Pages

    @abstractmethod
    def refusal(self, before: int, after: int) -> str | None:
        """Why this worker cannot go from degree `before` to `after`, or None; changes nothing."""

    @abstractmethod
    def shrink(self) -> None:
        """Take back all pages that the KV has beyond its own, before any layer moves."""

    @abstractmethod
    def move_weights(self, layers: range, degree: int) -> int:
        """Free or refill the weights of `layers`, which are at one degree, for `degree`; returns
        the bytes copied from peers. On the helper's thread. Raises MemoryFault."""

    @abstractmethod
    def grow(self, degree: int) -> None:
        """Give the KV the pages that no layer needs at `degree`, where all are now. Raises
        MemoryFault, and the KV is shrunk then."""

    # KV

    @abstractmethod
    def move_units(
        self, layers: range, moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        """Move the live KV of `layers` over a block; returns the bytes that came to this worker. On
        the helper's thread; collective over the block.

        live: by worker of the block, its live local slots, int64 [n], ascending. Their bits arrive,
        all others may be overwritten.
        """

    @abstractmethod
    def copy_slots(self, source: np.ndarray, target: np.ndarray) -> None:
        """Copy this worker's shard of joint slots in all layers, which are at one degree. Both
        int64 [n], no slot twice."""

    # Layers

    def switch(self, layers: range, degree: int) -> None:
        """Compute with `layers` at `degree` from now on; their weights and KV have moved."""
        for number in layers:
            self.executor.layers[number].switch(degree)

    # Time

    @abstractmethod
    def copy_seconds(self) -> float:
        """A clock that shows how long the calling thread has spent on copies."""

    def launched(self) -> StepEvent | None:
        """The event of all that was launched until now; None where a step has run when it
        returns."""
        return None

    @abstractmethod
    def rest(self) -> None:
        """Note that the worker has nothing to run."""

    def device_figures(self) -> Mapping[str, float]:
        """What its device has counted since the start, by name; nothing where nobody counts."""
        return {}
