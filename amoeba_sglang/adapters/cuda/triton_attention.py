"""Upstream's Triton attention at every degree: our slots of one token are its indices.

It reads pools of [slots, heads, D] at indices that it is given by row, and takes the number of
heads from the layer, so one instance serves all degrees; what a joint step adds is the indices of
joint slots. At degree 1 nothing here is called. Not yet run on a GPU.
"""

from functools import cached_property
from types import SimpleNamespace

import numpy as np
import torch
from sglang.srt.layers.attention.triton_backend import ForwardMetadata, TritonAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.adapters.cuda.room import Room
from amoeba_sglang.adapters.model.device_copy import copy_to


class TritonAttention(TritonAttnBackend):
    """Attends over explicit slots per row, too."""

    @cached_property
    def _room(self) -> Room:
        return Room()

    def init_ragged_metadata(self, batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        """Prepare a union. `slots`: joint slots of each row on the host, int64, in order, one for
        each of its tokens."""
        extends = batch.forward_mode.is_extend()
        # An extend reads its new tokens from the step, and from the pool those before them.
        seen = batch.extend_prefix_lens_cpu if extends else batch.seq_lens_cpu.tolist()
        new = batch.extend_seq_lens_cpu if extends else [1] * len(slots)
        indices = [mine.numpy()[:count] for mine, count in zip(slots, seen, strict=True)]
        # One copy to the device: each costs as much as a small kernel.
        parts = [np.cumsum([0, *seen]), np.cumsum([0, *new]), *indices]
        packed = torch.from_numpy(np.concatenate(parts))
        rows = len(slots) + 1
        keys, queries, kv_indices = copy_to(batch.seq_lens.device, packed).split(
            [rows, rows, len(packed) - 2 * rows]
        )
        kv_indptr = keys.to(torch.int32)
        if extends:
            self.forward_metadata = ForwardMetadata(
                attn_logits=None, attn_lse=None, max_extend_len=max(new), num_kv_splits=None,
                kv_indptr=kv_indptr, kv_indices=kv_indices, qo_indptr=queries,
                custom_mask=None, mask_indptr=None, window_kv_indptr=None,
                window_kv_indices=None, window_num_kv_splits=None, window_kv_offsets=None,
            )  # fmt: skip
            return
        batch.spec_info = SimpleNamespace(
            kv_indptr=kv_indptr, kv_indices=kv_indices, window_kv_indices=None
        )
        self.init_forward_metadata(batch)
        batch.spec_info = None

    def make_joint_metadata(
        self, batch: ForwardBatch, slots: list[torch.Tensor], width: int
    ) -> ForwardMetadata:
        """That of decode steps of as many rows with up to `width` slots each, in memory that stays;
        filled by `slots`, and used by what is computed next."""
        self.init_ragged_metadata(batch, slots)
        metadata = self.forward_metadata
        # Rows that share a prefix name its slots once each.
        count, like = batch.batch_size * width, batch.seq_lens
        metadata.kv_indices = self._room.take(count, like, torch.int64)
        self.fill_joint_metadata(metadata, batch, slots)
        return metadata

    def fill_joint_metadata(
        self, metadata: ForwardMetadata, batch: ForwardBatch, slots: list[torch.Tensor]
    ) -> None:
        """Let a recorded step attend over these; see `init_ragged_metadata`."""
        self.init_ragged_metadata(batch, slots)
        new, self.forward_metadata = self.forward_metadata, metadata
        metadata.kv_indptr.copy_(new.kv_indptr)
        metadata.kv_indices[: len(new.kv_indices)].copy_(new.kv_indices)
        metadata.num_kv_splits.copy_(new.num_kv_splits)
