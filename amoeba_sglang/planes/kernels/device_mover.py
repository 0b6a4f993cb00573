"""Moves KV units between the pools of a block that lie on devices which map each other's memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch

from amoeba_sglang.planes.kernels.launches import ALIGNMENT, Launch, UnitAddresses, plan_launches
from amoeba_sglang.planes.kernels.turn_cycle import BLOCK, WARPS, turn_cycle
from amoeba_sglang.planes.kv.mover import KVMover
from amoeba_sglang.planes.kv.units import RunMoves
from amoeba_sglang.planes.transport.base import TransportGroup


class DeviceKVMover(KVMover):
    """Lets units change places by the kernel, each read and written once, nothing put aside.

    `peers`: by worker index of the block, None for this worker; their memory is writable, and
    their pools may have more or fewer rows. `group`: the workers of the block in this order.
    `device`: this worker's, current in the thread that moves. `settle`: returns when all that was
    launched on that thread's stream has run, the writes of the KV that moves included.
    """

    block = BLOCK

    def __init__(
        self,
        own: UnitAddresses,
        peers: Sequence[UnitAddresses | None],
        group: TransportGroup,
        *,
        device: torch.device,
        settle: Callable[[], None],
    ) -> None:
        self._pools = [own if peer is None else peer for peer in peers]
        # What is live where a smaller pool has no row is refused move by move.
        most_rows = max(pool.rows for pool in self._pools)
        super().__init__(replace(own, rows=most_rows), peers.index(None))
        assert (len(peers), self._worker) == (group.size, group.rank), "peers and group differ"
        for pool in self._pools:
            assert (pool.finest, pool.unit_bytes) == (own.finest, own.unit_bytes), (
                "pools differ in units"
            )
        self._group, self._device, self._settle = group, device, settle

    @classmethod
    def over(
        cls,
        blocks: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]],
        group: TransportGroup,
        *,
        finest: int,
        device: torch.device,
        settle: Callable[[], None],
    ) -> Self:
        """Of the worker `group.rank`. `blocks`: by worker index, K and V [rows, ...] of every layer
        as this process has them mapped; `finest`: units of a row."""
        pools = [UnitAddresses.of(block, finest) for block in blocks]
        peers = [None if index == group.rank else pool for index, pool in enumerate(pools)]
        return cls(pools[group.rank], peers, group, device=device, settle=settle)

    def warm_up(self) -> None:
        """Let the kernel be compiled for each number of members that a cycle can have, a power of
        two up to `finest`; in these launches no unit is alive, so nothing moves."""
        pool = self._pools[self._worker]
        members, place = 2, int(pool.addresses[0, 0])
        while members <= pool.finest:
            table = np.array([place] * members + [0, 0], dtype=np.int64)
            launch = Launch(
                table, members, tensors=1, slots=1, run_bytes=ALIGNMENT, row_bytes=ALIGNMENT
            )
            self._launch(launch, torch.from_numpy(table).to(self._device))
            members *= 2
        self._settle()

    def _move(self, layers: Sequence[int], runs: RunMoves) -> None:
        # All tables first: a copy from the host waits for what was launched before it.
        launches = [
            (launch, torch.from_numpy(launch.table).to(self._device))
            for launch in plan_launches(self._pools, self._worker, layers, runs)
        ]
        self._settle()
        self._group.barrier()
        for launch, table in launches:
            self._launch(launch, table)
        self._settle()
        self._group.barrier()

    def _launch(self, launch: Launch, table: torch.Tensor) -> None:
        """Start it on the current stream; `table` is that of `launch`, on the device."""
        blocks = -(-launch.slots * launch.run_bytes // (4 * self.block))
        turn_cycle[blocks, launch.tensors](
            table,
            launch.slots,
            launch.tensors,
            launch.run_bytes // ALIGNMENT,
            launch.row_bytes // ALIGNMENT,
            MEMBERS=launch.members,
            BLOCK=self.block,
            num_warps=WARPS,
        )
