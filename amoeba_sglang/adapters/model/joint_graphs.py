"""Decode steps of an instance as recorded graphs, one for each degree and number of rows.

A step in the middle of a transformation, or with a prompt in it, is not one of these. Not yet run
on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.adapters.model.union_batch import UnionBatch
from amoeba_sglang.control.worker.step_record import StepRecord
from amoeba_sglang.planes.device.base import Device, Graph
from amoeba_sglang.planes.memory.base import MemoryFault


@dataclass(frozen=True)
class Recorded:
    """A graph and where it reads and writes, which never moves.

    batch: the union's, rows of each worker padded to `rows`; ids: of this worker's rows, int64
    [rows]; metadata: of the attention. logits: of this worker's rows [rows, vocabulary].
    """

    rows: int
    batch: ForwardBatch
    ids: torch.Tensor
    metadata: Any
    logits: torch.Tensor
    graph: Graph

    def replay(self, own: ForwardBatch | None, union: UnionBatch, attention: Any) -> torch.Tensor:
        """Logits of the rows of `own`, in the graph's memory."""
        for name in ("seq_lens", "out_cache_loc", "positions"):
            getattr(self.batch, name).copy_(getattr(union.batch, name))
        rows = 0 if own is None else len(own.input_ids)
        if own is not None:
            self.ids[:rows].copy_(own.input_ids)
        attention.fill_joint_metadata(self.metadata, union.batch, union.slots)
        self.graph.replay()
        return self.logits[:rows]


class JointGraphs:
    """`buckets`: numbers of rows of a worker, ascending, for each of which there is a graph.
    without: plain decode steps so far that none was large enough for."""

    def __init__(self, buckets: Sequence[int]) -> None:
        self._buckets, self.without = buckets, 0
        self._recorded: dict[tuple[int, int], Recorded] = {}

    def find(self, degree: int, records: Sequence[StepRecord]) -> Recorded | None:
        """What runs the step that these workers of one instance describe, if anything does."""
        if any(record.extend or record.scores_prompts for record in records):
            return None
        most = max(len(record.rows) for record in records)
        if not most:
            return None
        rows = next((bucket for bucket in self._buckets if bucket >= most), 0)
        found = self._recorded.get((degree, rows))
        self.without += found is None
        return found

    def record(
        self,
        degree: int,
        union_of: Callable[[int], UnionBatch],
        compute: Callable[[ForwardBatch, torch.Tensor], torch.Tensor],
        *,
        attention: Any,
        width: int,
        group: Any,
        meet: Callable[[], None],
        device: Device,
    ) -> None:
        """Record all graphs of a degree, at which all layers are; collective over the instance.

        `union_of`: of nothing but padding, so many rows a worker. `compute`: from it and own ids to
        own logits. `width`: slots that a row may fill. `group`: upstream's, of the degree; `meet`:
        returns when all of the instance are there, or says who is lost. MemoryFault if the device
        has no memory for a graph.
        """
        for rows in reversed(self._buckets):
            union = union_of(rows)
            batch, ids = union.batch, union.batch.positions.new_zeros(rows)
            metadata = attention.make_joint_metadata(batch, union.slots, width)
            launch = partial(compute, batch, ids)
            # Collectives of a GPU wait for a peer that has died as for one that is late.
            meet()
            try:
                # Kernels are compiled and libraries set up by a run that nobody records.
                launch()
                graph, logits = device.capture(launch, group)
            except torch.OutOfMemoryError as error:
                raise MemoryFault(
                    f"recording decode steps of degree {degree} with {rows} rows a worker: no "
                    "memory left; use a smaller --mem-fraction-static or --cuda-graph-max-bs, or "
                    "--disable-cuda-graph"
                ) from error
            self._recorded[degree, rows] = Recorded(
                rows, batch, ids, metadata=metadata, logits=logits, graph=graph
            )
