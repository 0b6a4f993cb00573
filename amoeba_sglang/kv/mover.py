"""Moves the live KV units of some layers between two layouts of a block, in place.

The units of a super-slot never leave it, so a pool is permuted chunk by chunk of super-slots
through a staging buffer of fixed size. A place that a unit moves to may still hold a live unit that
moves elsewhere: within a chunk of some layers all reads come before all writes, on all workers.
Chunks and layers are independent.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.kv.units import RunIndex, RunMoves, UnitBuffers
from amoeba_sglang.plan.moves import UnitMove, units_per_slot
from amoeba_sglang.plan.staging import fit_exchange
from amoeba_sglang.transport.base import PeerLostError, TransportGroup


class KVMover(ABC):
    """One worker's part of the move; all workers of the block call `move` with equal arguments.

    `staging_bytes` bounds the extra memory, allocated once.
    """

    def __init__(self, own: UnitBuffers, worker: int, staging_bytes: int) -> None:
        self._own = own
        self._worker = worker
        self._staging = np.empty(staging_bytes, dtype=np.uint8)

    def move(
        self, layers: Sequence[int], moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        """Move the live units of `layers` and return the bytes that this worker received from its
        peers.

        `moves`: of `plan.moves.unit_moves`, for this block. `live`: per worker of the block its
        live local slots (int64, ascending): everything that anybody may read again. Live units keep
        their bits, dead ones may be overwritten. When it returns, all workers have moved and nobody
        reads a peer's pool any more. Raises ConfigError when the staging buffer cannot hold one
        slot of one layer, and the errors of the group.
        """
        runs = RunMoves(moves, live, self._own.finest, self._own.rows)
        if not moves or not layers:
            return 0
        exchange = fit_exchange(
            len(layers),
            max(1, runs.super_slots),
            units_per_slot(moves) * sum(self._own.unit_bytes),
            self._usable_staging(),
        )
        received = 0
        self._enter()
        for chunk in runs.chunks(exchange.super_slots):
            for first in range(0, len(layers), exchange.layers):
                received += self._exchange(
                    layers[first : first + exchange.layers], chunk, runs.width
                )
        self._leave()
        return received

    @abstractmethod
    def _usable_staging(self) -> int:
        """Bytes of staging for what one worker receives in an exchange."""

    @abstractmethod
    def _enter(self) -> None:
        """Return when every worker has stopped writing to its pool."""

    @abstractmethod
    def _exchange(self, layers: Sequence[int], chunk: list[RunIndex], width: int) -> int:
        """Move one chunk of some layers; bytes received."""

    @abstractmethod
    def _leave(self) -> None:
        """Return when no worker reads this worker's pool any more and all have written."""

    def _items(
        self, staging: np.ndarray, layers: Sequence[int], indices: Sequence[RunIndex], width: int
    ) -> Iterator[tuple[RunIndex, int, int, np.ndarray]]:
        """Lay out staging, packed: (index, layer, 0 for K or 1 for V, its staged runs)."""
        start = 0
        for index in indices:
            for layer in layers:
                for which, unit_bytes in enumerate(self._own.unit_bytes):
                    run = np.dtype((np.void, width * unit_bytes))
                    end = start + len(index) * run.itemsize
                    assert end <= len(staging), "a chunk is larger than the staging buffer"
                    yield index, layer, which, staging[start:end].view(run)
                    start = end

    def _write(
        self, staging: np.ndarray, layers: Sequence[int], indices: Sequence[RunIndex], width: int
    ) -> int:
        """Put received runs into the own pool; their bytes."""
        written = 0
        for index, layer, which, staged in self._items(staging, layers, indices, width):
            self._own.runs(layer, width)[which][index.target_runs] = staged
            written += staged.nbytes
        return written


class PeerKVMover(KVMover):
    """Reads units straight out of the peers' pools.

    `peers`: by worker index of the block, None for this worker. `group`: the workers of the block
    in this order.
    """

    def __init__(
        self,
        own: UnitBuffers,
        peers: Sequence[UnitBuffers | None],
        group: TransportGroup,
        staging_bytes: int,
    ) -> None:
        super().__init__(own, peers.index(None), staging_bytes)
        assert (len(peers), self._worker) == (group.size, group.rank), "peers and group differ"
        for peer in (peer for peer in peers if peer is not None):
            assert (peer.rows, peer.unit_bytes) == (own.rows, own.unit_bytes), (
                "pools differ in shape"
            )
        self._peers = peers
        self._group = group

    def _usable_staging(self) -> int:
        return len(self._staging)

    def _enter(self) -> None:
        self._group.barrier()

    def _exchange(self, layers: Sequence[int], chunk: list[RunIndex], width: int) -> int:
        incoming = [index for index in chunk if index.target == self._worker]
        for index, layer, which, staged in self._items(self._staging, layers, incoming, width):
            source = self._peers[index.source].runs(layer, width)[which]
            # RunMoves has checked the range; "clip" spares numpy a copy of the output.
            np.take(source, index.source_runs, out=staged, mode="clip")
        # No barrier after the writes: the next exchange reads other super-slots or other layers.
        self._group.barrier()
        return self._write(self._staging, layers, incoming, width)

    def _leave(self) -> None:
        self._group.barrier()


class CollectiveKVMover(KVMover):
    """Sends units with all_to_all_single over `group`, the workers of the block.

    The reference and the fallback: half of the staging buffer is for sending.
    """

    def __init__(self, own: UnitBuffers, group: dist.ProcessGroup, staging_bytes: int) -> None:
        super().__init__(own, dist.get_rank(group), staging_bytes)
        self._group = group

    def _usable_staging(self) -> int:
        return len(self._staging) // 2

    def _enter(self) -> None:
        """Nothing: every worker reads its own pool only, so the collectives are order enough."""

    def _exchange(self, layers: Sequence[int], chunk: list[RunIndex], width: int) -> int:
        outgoing = [index for index in chunk if index.source == self._worker]
        incoming = [index for index in chunk if index.target == self._worker]
        per_run = len(layers) * width * sum(self._own.unit_bytes)
        sizes = [0] * dist.get_world_size(self._group)
        received_sizes = sizes.copy()
        for index in outgoing:
            sizes[index.target] = len(index) * per_run
        for index in incoming:
            received_sizes[index.source] = len(index) * per_run
        half = len(self._staging) // 2
        sent = self._staging[: sum(sizes)]
        received = self._staging[half : half + sum(received_sizes)]
        for index, layer, which, staged in self._items(sent, layers, outgoing, width):
            np.take(self._own.runs(layer, width)[which], index.source_runs, out=staged, mode="clip")
        self._run(
            dist.all_to_all_single,
            torch.from_numpy(received),
            torch.from_numpy(sent),
            received_sizes,
            sizes,
        )
        return self._write(received, layers, incoming, width)

    def _leave(self) -> None:
        self._run(dist.barrier)

    def _run(self, collective: Callable[..., object], *args: object) -> None:
        start = time.monotonic()
        try:
            collective(*args, group=self._group)
        except RuntimeError as error:
            members = dist.get_process_group_ranks(self._group)
            peers = [rank for rank in members if rank != dist.get_rank()]
            waited = time.monotonic() - start
            reason = f"are silent or dead, at least one of them ({error})"
            raise PeerLostError(peers, "a KV move", waited, reason) from error
