"""Moves KV units straight between the pools of a block, whose workers can all write to them."""

from collections.abc import Sequence

import numpy as np

from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.control.transform.staging import require_staging
from amoeba_sglang.planes.kv.mover import KVMover
from amoeba_sglang.planes.kv.units import RunMoves, UnitBuffers
from amoeba_sglang.planes.transport.base import TransportGroup

# Two of these, and what they are copied from and to, stay in a core's cache. They are larger only
# if a slot is.
_BUFFER_BYTES = 128 << 10


class PeerKVMover(KVMover):
    """Lets units change places along the cycles of their permutation, each read and written once.

    The turns of the workers need no other order than a barrier before and one behind.

    `peers`: by worker index of the block, None for this worker; their memory is writable. `group`:
    the workers of the block in this order.
    """

    def __init__(
        self,
        own: UnitBuffers,
        peers: Sequence[UnitBuffers | None],
        group: TransportGroup,
        staging_bytes: int,
    ) -> None:
        super().__init__(own, peers.index(None))
        assert (len(peers), self._worker) == (group.size, group.rank), "peers and group differ"
        for peer in (peer for peer in peers if peer is not None):
            assert (peer.rows, peer.unit_bytes) == (own.rows, own.unit_bytes), (
                "pools differ in shape"
            )
        self._pools = [own if peer is None else peer for peer in peers]
        self._group = group
        self._staging_bytes = staging_bytes
        size = min(max(_BUFFER_BYTES, own.finest * max(own.unit_bytes)), staging_bytes // 2)
        self._aside, self._passing = (np.empty(size, dtype=np.uint8) for _ in range(2))

    def _move(self, layers: Sequence[int], runs: RunMoves) -> None:
        slot_bytes = runs.units_per_slot * sum(self._shape.unit_bytes)
        require_staging(slot_bytes, self._staging_bytes)
        most_slots = max(1, len(self._aside) // (runs.width * max(self._shape.unit_bytes)))
        self._group.barrier()
        for cycle, slots in runs.turns(self._worker, most_slots):
            self._turn(cycle, runs, slots, layers)
        self._group.barrier()

    def _turn(
        self,
        cycle: tuple[UnitMove, ...],
        runs: RunMoves,
        slots: list[np.ndarray],
        layers: Sequence[int],
    ) -> None:
        """Make the moves of a cycle, for some super-slots; dead units stay where they are."""
        (first, first_at, first_to), *others = [
            (move, runs.source_runs(move, slots), runs.target_runs(move, slots)) for move in cycle
        ]
        for layer in layers:
            for which in range(len(self._shape.unit_bytes)):
                pools = [pool.runs(layer, runs.width)[which] for pool in self._pools]
                aside = _take(pools[first.source], first_at, self._aside)
                for move, at, to in others:
                    pools[move.target][to] = _take(pools[move.source], at, self._passing)
                pools[first.target][first_to] = aside


def _take(pool: np.ndarray, runs: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """`pool[runs]`, in `buffer`."""
    taken = buffer[: len(runs) * pool.itemsize].view(pool.dtype)
    # RunMoves has checked the range; "clip" spares numpy a copy of the output.
    return np.take(pool, runs, out=taken, mode="clip")
