"""The contract of what moves the live KV units of some layers between two layouts of a block."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.kv.units import PoolShape, RunMoves


class KVMover(ABC):
    """One worker's part of the move; all workers of the block call `move` with equal arguments.

    The units of a super-slot never leave it, so a pool is permuted in place, some super-slots at a
    time. `shape`: of the pools; `worker`: this one's index in the block. A mover that puts units
    aside in memory has `staging_bytes` for it.
    """

    def __init__(self, shape: PoolShape, worker: int) -> None:
        self._shape = shape
        self._worker = worker

    def move(
        self, layers: Sequence[int], moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        """Move the live units of `layers` and return the bytes that came to this worker from its
        peers.

        `moves`: of `unit_moves`, for this block. `live`: per worker of the block its live local
        slots (int64, ascending): everything that anybody may read again. Live units keep their
        bits, dead ones may be overwritten. When it returns, all workers have moved and nobody
        touches a peer's pool any more. Raises ConfigError when `staging_bytes` cannot hold one slot
        of one layer, and the errors of the group.
        """
        runs = RunMoves(moves, live, self._shape.finest, self._shape.rows)
        if not moves or not layers:
            return 0
        self._move(layers, runs)
        run_bytes = runs.width * sum(self._shape.unit_bytes)
        return runs.received_runs(self._worker) * run_bytes * len(layers)

    def warm_up(self) -> None:
        """Do now what would otherwise make the first move wait."""
        return

    @abstractmethod
    def _move(self, layers: Sequence[int], runs: RunMoves) -> None:
        """`move`; there is something to move."""
