"""The plane of a CPU worker: the model's own layers, real pages, real copies."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from amoeba_sglang.adapters.cpu.attention import CpuAttention
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.adapters.model.mlp_shards import elastic_matrices
from amoeba_sglang.adapters.worker.connections import Groups, Movers
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.memory.mapping import return_freed_memory
from amoeba_sglang.planes.pages.weight_store import WeightStore


class CpuPlane(Plane):
    """Over the pool of a ModelRunner. Weights stay where they are if `movers` has no pages."""

    def __init__(
        self,
        executor: JointExecutor,
        pool: ElasticKVPool,
        movers: Movers,
        *,
        degrees: Sequence[int],
        staging_bytes: int,
        crowding: float,
    ) -> None:
        self._pool, self._kv, self._pages = pool, movers.kv, movers.pages
        self._staging_bytes = staging_bytes
        grown = {d: 0 if movers.pages is None else movers.pages.grown_slots(d) for d in degrees}
        super().__init__(executor, grown, crowding)

    def refusal(self, before: int, after: int) -> str | None:
        return None if self._pages is None else self._pages.refusal(before, after)

    def shrink(self) -> None:
        if self._pages is not None:
            self._pages.shrink()
            self._view_all()

    def grow(self, degree: int) -> None:
        if self._pages is not None:
            self._pages.grow(degree)
            self._view_all()

    def move_weights(self, layers: range, degree: int) -> int:
        return 0 if self._pages is None else self._pages.move_layers(layers, degree)

    def move_units(
        self, layers: range, moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        return self._kv[len(live)].move(layers, moves, live)

    def copy_slots(self, source: np.ndarray, target: np.ndarray) -> None:
        slots = torch.from_numpy(source), torch.from_numpy(target)
        self._pool.copy_slots(*slots, self._staging_bytes)

    def switch(self, layers: range, degree: int) -> None:
        super().switch(layers, degree)
        for number in layers:
            self._pool.view_layer(number, degree)

    def copy_seconds(self) -> float:
        """Not the time on the clock, most of which is computation on the same core."""
        return time.thread_time()

    def rest(self) -> None:
        """Nothing: a step has run when it returns."""

    def _view_all(self) -> None:
        for number, layer in enumerate(self.executor.layers):
            self._pool.view_layer(number, layer.degree)


def make_cpu_plane(
    runner: Any, allocator: ElasticAllocator, config: AmoebaConfig, rank: int, groups: Groups
) -> CpuPlane:
    """The plane of the model and pool of a ModelRunner; collective over all workers of the
    world."""
    chain, index = DegreeChain(config.degrees), rank % config.group_size
    pool, model = runner.token_to_kv_pool, runner.model
    stack = list(model.model.layers)
    matrices = elastic_matrices(stack, chain.finest)
    pages = WeightPages(chain, pool.memory.page_size, matrices)
    store = WeightStore(pool.memory, pages, index)
    layers = [
        LayerShards(layer, number, chain, index, groups=groups.coordinators, store=store)
        for number, layer in enumerate(stack)
    ]
    return_freed_memory()
    executor = JointExecutor(
        model,
        layers,
        chain,
        size=allocator.num_pages,
        page=allocator.page_size,
        groups=groups.coordinators,
        transports=groups.transports,
        attention=CpuAttention(runner),
    )
    return CpuPlane(
        executor,
        pool,
        Movers.create(config, rank, pool, store, groups),
        degrees=chain.degrees,
        staging_bytes=config.staging_mib << 20,
        crowding=max(1.0, config.workers / len(os.sched_getaffinity(0))),
    )
