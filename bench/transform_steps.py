"""Joint steps of a stand-in model that computes while its layers change degree."""

import time
from concurrent.futures import Executor
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from amoeba_sglang.adapters.emulated.executor import EmulatedLayer
from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.plane import ModelPlane
from amoeba_sglang.adapters.worker.connections import Movers
from amoeba_sglang.control.transform.pace import Pace
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.transformation import Transformation, TransformReport
from bench.page_worker import STAGING, PageWorker


class Unseen:
    """A KV pool that nobody looks at."""

    def view_layer(self, layer: int, degree: int) -> None:
        """Nothing."""


class Steps:
    """All MLP products of the model on `rows` rows a worker, and the sums between the workers.

    The products read the real weight pages, a shard at each layer's degree; at degree d the union
    of d * rows rows goes through them, as in a joint step. Attention is left out.
    """

    def __init__(self, worker: PageWorker, rows: int, helper: Executor) -> None:
        self._worker, self._rows, self._helper = worker, rows, helper
        self._layers = [EmulatedLayer() for _ in range(worker.shape.layers)]
        self._plane = ModelPlane(
            SimpleNamespace(layers=self._layers),
            Unseen(),
            Movers({worker.n: worker.mover}, worker.pages),
            device=CpuDevice(),
            degrees=worker.chain.degrees,
            staging_bytes=STAGING,
            crowding=CpuDevice().crowding(worker.n),
        )
        self._epoch = 0
        # By degree, seconds of the last step without a change.
        self._plain: dict[int, float] = {}

    @torch.inference_mode()
    def run(self, transformation: Transformation | None) -> float:
        """One step; its seconds."""
        worker, started = self._worker, time.perf_counter()
        if transformation is not None:
            transformation.begin()
        x, present = torch.ones(self._rows, worker.shape.hidden, dtype=worker.shape.dtype), 1
        for number, layer in enumerate(self._layers):
            if transformation is not None and number == transformation.layers.start:
                transformation.settle()
            if layer.degree != present:
                present = layer.degree
                x = worker.group.all_gather(x)
            gate_up, down = worker.matrices_of(number, layer.degree)
            gate, up = F.linear(x, gate_up).chunk(2, dim=1)
            x = (F.silu(gate) * up) @ down
            if layer.degree > 1:
                x = worker.group.all_reduce(x)
            x = F.layer_norm(x, x.shape[1:])
        seconds = time.perf_counter() - started
        if transformation is None:
            self._plain[present] = seconds
        return seconds

    def transform(
        self, after: int, live: np.ndarray, layers_per_step: int | None, overlap: bool
    ) -> tuple[list[float], list[int], TransformReport]:
        """Change all layers to `after` while stepping: seconds of every step with what moved before
        it, b in that step, and the report. `live`: local live slots."""
        worker, before = self._worker, self._layers[0].degree
        self._epoch += 1
        order = TransformOrder(
            phase="commit",
            operation_id="bench",
            epoch=self._epoch,
            ranks=list(range(worker.n)),
            before=[before] * worker.n,
            after=[after] * worker.n,
        )
        transformation = Transformation(
            order,
            worker.chain,
            worker.rank,
            plane=self._plane,
            block=worker.group,
            moving=worker.moving,
            pace=Pace(layers_per_step),
            plain_seconds=self._plain.get(before, 0.0),
            helper=self._helper,
            now=time.monotonic,
        )
        transformation.enter()
        seconds, boundaries = [], []
        while not transformation.finished:
            started = time.perf_counter()
            transformation.advance(live)
            if not overlap:
                transformation.settle()
            self.run(transformation)
            # With the layers that moved meanwhile, which ran at their new degree.
            boundaries.append(transformation.boundary.b)
            seconds.append(time.perf_counter() - started)
        return seconds, boundaries, transformation.report
