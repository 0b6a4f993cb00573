"""The union of an instance's batches as one upstream ForwardBatch."""

from dataclasses import dataclass

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import (
    CaptureHiddenMode,
    ForwardBatch,
    ForwardMode,
)
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from amoeba_sglang.control.layout.locations import locations_at
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord


@dataclass(frozen=True)
class UnionBatch:
    """`batch`: rows of all workers in rank order. `slots`: joint slots of each row, int64, as many
    as it fills. `tokens`: new tokens of each worker, in rank order."""

    batch: ForwardBatch
    slots: list[torch.Tensor]
    tokens: list[int]


def build_union(
    records: list[StepRecord],
    mirrors: list[RowMirror],
    chain: DegreeChain,
    degree: int,
    size: int,
    page: int,
) -> UnionBatch | None:
    """Build the union of one instance from its workers' records (rank order), or None if empty.

    `mirrors`: of the same workers; they have heard these records (StepExecutor.hear).
    `size`: slots of a worker's own pool; `page`: tokens of a slot.

    Decode rows beside prefill rows run as one-token extends. Sampling fields stay with the
    owners' own batches; `input_ids` has the right length only, since embeddings are gathered.
    """
    slots: list[np.ndarray] = []
    seq_lens: list[int] = []
    extend_lens: list[int] = []
    for index, (record, mirror) in enumerate(zip(records, mirrors, strict=True)):
        for row in record.rows:
            local = mirror.slots(row.row, row.known + len(row.slots))
            slots.append(chain.joint_slots_of_ids(degree, index, local, size))
            seq_lens.append(row.seq_len)
            extend_lens.append(row.extend_len)
    tokens = [record.tokens for record in records]
    if not slots:
        return None
    extend = any(record.extend for record in records)
    batch = _make_batch(slots, seq_lens, extend_lens, extend, page)
    return UnionBatch(batch, [torch.from_numpy(s) for s in slots], tokens)


def _make_batch(
    slots: list[np.ndarray], seq_lens: list[int], extend_lens: list[int], extend: bool, page: int
) -> ForwardBatch:
    """By row its slots, its tokens after the step and those that are new in it."""
    prefix_lens = [s - e for s, e in zip(seq_lens, extend_lens, strict=True)]
    spans = list(zip(prefix_lens, seq_lens, strict=True))
    new_locations = np.concatenate(
        [locations_at(row, *span, page) for row, span in zip(slots, spans, strict=True)]
    )
    positions = np.concatenate([np.arange(*span) for span in spans])
    seq_lens_cpu = torch.tensor(seq_lens, dtype=torch.int64)
    batch = ForwardBatch(
        forward_mode=ForwardMode.EXTEND if extend else ForwardMode.DECODE,
        batch_size=len(slots),
        input_ids=torch.zeros(sum(extend_lens), dtype=torch.int64),
        req_pool_indices=torch.arange(len(slots)),
        seq_lens=seq_lens_cpu,
        seq_lens_cpu=seq_lens_cpu,
        orig_seq_lens=seq_lens_cpu,
        seq_lens_sum=sum(seq_lens),
        out_cache_loc=torch.from_numpy(new_locations),
        positions=torch.from_numpy(positions),
        spec_algorithm=SpeculativeAlgorithm.NONE,
        capture_hidden_mode=CaptureHiddenMode.NULL,
    )
    if extend:
        lens = torch.tensor(extend_lens, dtype=torch.int64)
        batch.extend_num_tokens = sum(extend_lens)
        batch.extend_seq_lens = lens
        batch.extend_seq_lens_cpu = extend_lens
        batch.extend_prefix_lens = torch.tensor(prefix_lens, dtype=torch.int64)
        batch.extend_prefix_lens_cpu = prefix_lens
        batch.extend_start_loc = lens.cumsum(0) - lens
    return batch
