"""What of a worker computes and moves data, and what an emulated worker has instead."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from amoeba_sglang.adapters.cpu.attention import CpuAttention
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.adapters.model.mlp_shards import elastic_matrices
from amoeba_sglang.adapters.worker.connections import Groups, Movers
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.memory.mapping import return_freed_memory
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.step_executor import StepExecutor


class KVViews(Protocol):
    """Of an ElasticKVPool."""

    def view_layer(self, layer: int, degree: int) -> None: ...

    def copy_slots(self, source: Any, target: Any, staging_bytes: int) -> None: ...


class UnitMover(Protocol):
    """Of a KVMover."""

    def move(
        self, layers: Sequence[int], moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int: ...


class PageMover(Protocol):
    """Of a PageExchange."""

    def grown_slots(self, degree: int) -> int: ...

    def refusal(self, before: int, after: int) -> str | None: ...

    def shrink(self) -> None: ...

    def move_layers(self, layers: Iterable[int], degree: int) -> int: ...

    def grow(self, degree: int) -> None: ...


@dataclass(frozen=True)
class DataPlane:
    """One worker's executor, pool and movers; `movers`: by width of a block. `pages` is None if
    weights stay. grown: by degree, joint slots that an instance has beyond its workers' own pools.
    copy_clock: seconds that the calling thread has spent on copies; crowding: workers
    whose copies take turns on a core."""

    executor: StepExecutor
    views: KVViews
    movers: Mapping[int, UnitMover]
    pages: PageMover | None
    grown: Mapping[int, int]
    copy_clock: Callable[[], float]
    crowding: float


def make_cpu_plane(
    runner: Any,
    allocator: ElasticAllocator,
    config: AmoebaConfig,
    chain: DegreeChain,
    rank: int,
    groups: Groups,
) -> DataPlane:
    """Of the model and pool of a ModelRunner; collective over all workers of the world."""
    pool, model, index = runner.token_to_kv_pool, runner.model, rank % config.group_size
    stack = list(model.model.layers)
    matrices = elastic_matrices(stack, chain.finest)
    pages = WeightPages(chain, pool.memory.page_size, matrices)
    store = WeightStore(pool.memory, pages, index)
    layers = [
        LayerShards(layer, number, chain, index, groups.coordinators, store)
        for number, layer in enumerate(stack)
    ]
    return_freed_memory()
    movers = Movers.create(config, chain, rank, pool, store, groups)
    grown = {d: 0 if movers.pages is None else movers.pages.grown_slots(d) for d in chain.degrees}
    executor = JointExecutor(
        model,
        layers,
        chain,
        allocator.num_pages,
        allocator.page_size,
        groups.coordinators,
        groups.transports,
        CpuAttention(runner),
    )
    # Not the time on the clock, most of which is computation on the same core.
    crowding = max(1.0, config.workers / len(os.sched_getaffinity(0)))
    return DataPlane(executor, pool, movers.kv, movers.pages, grown, time.thread_time, crowding)
