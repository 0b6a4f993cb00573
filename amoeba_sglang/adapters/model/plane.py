"""The plane of a worker that computes: the model's own layers, real pages, real copies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sglang.srt.model_executor.cuda_graph_config import Backend
from sglang.srt.runtime_context import get_exec

from amoeba_sglang.adapters.model.elastic_model import ElasticModel
from amoeba_sglang.adapters.model.joint_graphs import JointGraphs
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.worker.connections import Groups, Movers
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.contract import Plane, StepEvent
from amoeba_sglang.planes.device.base import Device
from amoeba_sglang.planes.transport.base import Collectives, TransportGroup


class ModelPlane(Plane):
    """Over the pool of a ModelRunner, on its device."""

    def __init__(
        self,
        executor: JointExecutor,
        pool: ElasticKVPool,
        movers: Movers,
        *,
        device: Device,
        degrees: Sequence[int],
        staging_bytes: int,
        crowding: float,
    ) -> None:
        self._pool, self._kv, self._pages = pool, movers.kv, movers.pages
        self._device, self._staging_bytes = device, staging_bytes
        super().__init__(executor, {d: movers.pages.grown_slots(d) for d in degrees}, crowding)

    def refusal(self, before: int, after: int) -> str | None:
        return self._pages.refusal(before, after)

    def shrink(self) -> None:
        self._pages.shrink()
        self._view_all()

    def grow(self, degree: int) -> None:
        self._pages.grow(degree)
        self._view_all()

    def move_weights(self, layers: range, degree: int) -> int:
        copied = self._pages.move_layers(layers, degree)
        # Peers hear next that this worker has its copies.
        self._device.wait()
        return copied

    def move_units(
        self, layers: range, moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        return self._kv[len(live)].move(layers, moves, live)

    def copy_slots(self, source: np.ndarray, target: np.ndarray) -> None:
        slots = self._device.ids(source), self._device.ids(target)
        self._pool.copy_slots(*slots, self._staging_bytes)

    def switch(self, layers: range, degree: int) -> None:
        super().switch(layers, degree)
        for number in layers:
            self._pool.view_layer(number, degree)

    def copy_seconds(self) -> float:
        return self._device.copy_seconds()

    def launched(self) -> StepEvent | None:
        return self._device.launched()

    def rest(self) -> None:
        """Nothing: what has been launched runs by itself."""

    def device_figures(self) -> Mapping[str, float]:
        graphs = self.executor.graphs
        steps = {} if graphs is None else {"plain steps without a graph": graphs.without}
        return {**self._device.figures(), **steps}

    def record_graphs(
        self, graphs: JointGraphs, context_tokens: int, transports: Mapping[int, TransportGroup]
    ) -> None:
        """Record the decode steps of every degree above 1; all layers are at degree 1, before and
        afterwards. Collective over all workers of the world. `transports`: by degree."""
        executor, everything = self.executor, range(len(self.executor.layers))
        # From the one with the most slots on: attention keeps room for the largest.
        for degree in executor.chain.degrees[:0:-1]:
            super().switch(everything, degree)
            for number in everything:
                self._pool.view_layer(number, degree, self._pages.grown_rows(degree))
            slots = degree * executor.size + self.grown[degree]
            transports[degree].phase = f"recording decode steps of degree {degree}"
            width = min(slots, -(-context_tokens // executor.page))
            with self._device.weigh(f"recorded decode steps of degree {degree}"):
                executor.record_graphs(graphs, degree, width, transports[degree].barrier)
        self.switch(everything, 1)

    def _view_all(self) -> None:
        for number, layer in enumerate(self.executor.layers):
            self._pool.view_layer(number, layer.degree)


def make_plane(
    scheduler: Any,
    rank: int,
    groups: Groups,
    *,
    device: Device,
    collectives: Mapping[int, Collectives],
    attention_at: Callable[[int], Any],
    joint_graphs: bool = False,
) -> ModelPlane:
    """The plane of the model and pool of an ElasticScheduler; collective over all workers of the
    world. `collectives`: by degree above 1, of its joint steps' tensors. `attention_at`: of a
    degree, a backend that takes explicit slots per row. `joint_graphs`: whether to record steps,
    unless SGLang's flags say not to."""
    runner = scheduler.tp_worker.model_runner
    allocator: ElasticAllocator = scheduler.token_to_kv_pool_allocator
    config: AmoebaConfig = scheduler.server_args._amoeba
    chain, pool = DegreeChain(config.degrees), runner.token_to_kv_pool
    elastic: ElasticModel = runner.model.elastic
    executor = JointExecutor(
        runner.model,
        elastic.layers,
        chain,
        size=allocator.num_pages,
        page=allocator.page_size,
        groups=elastic.coordinators,
        collectives=collectives,
        attentions={degree: attention_at(degree) for degree in chain.degrees},
        device=device,
    )
    executor.lag = device.lag if scheduler.enable_overlap else 0
    plane = ModelPlane(
        executor,
        pool,
        Movers.create(config, rank, pool, elastic.store, groups, device=device),
        device=device,
        degrees=chain.degrees,
        staging_bytes=config.staging_mib << 20,
        crowding=device.crowding(config.workers),
    )
    buckets = graph_buckets(scheduler.max_running_requests) if joint_graphs else []
    if buckets:
        context = scheduler.model_config.context_len
        plane.record_graphs(JointGraphs(buckets), context, groups.transports)
    return plane


def graph_buckets(rows: int) -> list[int]:
    """Rows of a worker, ascending, for which SGLang records graphs; the last holds `rows`, unless
    the user wants fewer. None with --disable-cuda-graph."""
    decode = get_exec().graph.cuda_graph_config.decode
    if decode.backend == Backend.DISABLED:
        return []
    given = decode.bs or [1, 2, 4, *range(8, 256 + 8, 8)]
    return [bucket for bucket, before in zip(given, [0, *given], strict=False) if before < rows]
