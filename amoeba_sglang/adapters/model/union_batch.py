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

from amoeba_sglang.adapters.model.device_copy import copy_to
from amoeba_sglang.control.layout.locations import locations_at
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord


@dataclass(frozen=True)
class UnionBatch:
    """`batch`: rows of all workers in rank order. `slots`: joint slots of each row, int64, as many
    as it fills; None where the attention has them already. `tokens`: new tokens of each worker, in
    rank order."""

    batch: ForwardBatch
    slots: list[torch.Tensor] | None
    tokens: list[int]


def build_union(
    records: list[StepRecord],
    mirrors: list[RowMirror],
    chain: DegreeChain,
    degree: int,
    *,
    size: int,
    page: int,
    device: torch.device | str,
    rows: int = 0,
) -> UnionBatch | None:
    """Build the union of one instance from its workers' records (rank order), or None if empty.

    `mirrors`: of the same workers; they have heard these records (StepExecutor.hear).
    `size`: slots of a worker's own pool; `page`: tokens of a slot. `device`: of the batch; its
    `_cpu` fields and the slots are on the host.

    `rows`: to fill up each worker's to, by rows of one token in the padding slot.

    Decode rows beside prefill rows run as one-token extends. Sampling fields stay with the
    owners' own batches; `input_ids` has the right length only, since the layers get embeddings.
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
        padding = max(0, rows - len(record.rows))
        slots += [np.zeros(1, dtype=np.int64)] * padding
        seq_lens += [1] * padding
        extend_lens += [1] * padding
    tokens = [max(record.tokens, rows) for record in records]
    if not slots:
        return None
    extend = any(record.extend for record in records)
    batch = _make_batch(slots, seq_lens, extend_lens, extend=extend, page=page, device=device)
    return UnionBatch(batch, [torch.from_numpy(s) for s in slots], tokens)


def _make_batch(
    slots: list[np.ndarray],
    seq_lens: list[int],
    extend_lens: list[int],
    *,
    extend: bool,
    page: int,
    device: torch.device | str,
) -> ForwardBatch:
    """By row its slots, its tokens after the step and those that are new in it."""
    rows, tokens = len(slots), sum(extend_lens)
    ends, new = np.array(seq_lens), np.array(extend_lens)
    begins = ends - new
    prefix_lens = begins.tolist()
    spans = list(zip(prefix_lens, seq_lens, strict=True))
    locations = [locations_at(row, *span, page) for row, span in zip(slots, spans, strict=True)]
    # One copy to the device: each costs as much as a small kernel.
    lengths = [ends, np.arange(rows), new, begins, new.cumsum() - new]
    packed = torch.from_numpy(
        np.concatenate([*lengths, *locations, *(np.arange(*span) for span in spans)])
    )
    on_device = copy_to(device, packed)
    seq_lens_device, row_numbers, new_device, begins_device, starts = on_device[
        : len(lengths) * rows
    ].view(len(lengths), rows)
    locations_device, positions = on_device[len(lengths) * rows :].view(2, tokens)
    batch = ForwardBatch(
        forward_mode=ForwardMode.EXTEND if extend else ForwardMode.DECODE,
        batch_size=rows,
        input_ids=torch.zeros(tokens, dtype=torch.int64, device=device),
        req_pool_indices=row_numbers,
        seq_lens=seq_lens_device,
        seq_lens_cpu=packed[:rows],
        orig_seq_lens=seq_lens_device,
        seq_lens_sum=sum(seq_lens),
        out_cache_loc=locations_device,
        positions=positions,
        spec_algorithm=SpeculativeAlgorithm.NONE,
        capture_hidden_mode=CaptureHiddenMode.NULL,
    )
    if extend:
        batch.extend_num_tokens = tokens
        batch.extend_seq_lens = new_device
        batch.extend_seq_lens_cpu = extend_lens
        batch.extend_prefix_lens = begins_device
        batch.extend_prefix_lens_cpu = prefix_lens
        batch.extend_start_loc = starts
    return batch
