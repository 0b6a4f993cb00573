"""Moves KV units with collectives, for workers that cannot reach each other's memory."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.control.transform.staging import fit_exchange
from amoeba_sglang.planes.kv.mover import KVMover
from amoeba_sglang.planes.kv.units import RunIndex, RunMoves, UnitBuffers
from amoeba_sglang.planes.transport.base import PeerLostError


class CollectiveKVMover(KVMover):
    """Sends units with all_to_all_single over `group`, the workers of the block.

    The reference and the fallback: half of the staging buffer is for sending.
    """

    def __init__(self, own: UnitBuffers, group: dist.ProcessGroup, staging_bytes: int) -> None:
        super().__init__(own, dist.get_rank(group))
        self._own = own
        self._group = group
        self._staging = np.empty(staging_bytes, dtype=np.uint8)

    def _move(self, layers: Sequence[int], runs: RunMoves) -> None:
        exchange = fit_exchange(
            len(layers),
            max(1, runs.super_slots),
            runs.units_per_slot * sum(self._own.unit_bytes),
            len(self._staging) // 2,
        )
        # Every worker reads its own pool only, so the collectives are order enough.
        for chunk in runs.index_chunks(exchange.super_slots):
            for first in range(0, len(layers), exchange.layers):
                self._exchange(layers[first : first + exchange.layers], chunk, runs.width)
        self._run(dist.barrier)

    def _exchange(self, layers: Sequence[int], chunk: list[RunIndex], width: int) -> None:
        """Move one chunk of some layers: all reads before all writes, on all workers."""
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
        for index, layer, which, staged in self._items(received, layers, incoming, width):
            self._own.runs(layer, width)[which][index.target_runs] = staged

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
