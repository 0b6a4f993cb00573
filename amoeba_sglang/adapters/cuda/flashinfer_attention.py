"""Upstream's FlashInfer attention at every degree: our slots of one token are its pages.

A plan is made for a number of heads, and what it writes is read until its kernels have run: so each
degree above 1 has an instance with wrappers of its own. At degree 1 nothing here is called. Not yet
run on a GPU.
"""

from typing import Any

import numpy as np
import torch
from sglang.srt.layers.attention import flashinfer_backend
from sglang.srt.layers.attention.flashinfer_backend import (
    DecodeMetadata,
    FlashInferAttnBackend,
    PrefillMetadata,
)
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.adapters.cuda.room import Room
from amoeba_sglang.adapters.model.device_copy import copy_to


class FlashInferAttention(FlashInferAttnBackend):
    """Of one degree; attends over explicit slots per row, too."""

    def __init__(self, model_runner: Any, degree: int = 1) -> None:
        super().__init__(model_runner)
        updater = self.indices_updater_decode
        self._shape = (updater.num_qo_heads // degree, updater.num_kv_heads // degree)
        self._types = {"q": updater.q_data_type, "kv": updater.data_type}
        self._head_dim, self._room = updater.head_dim, Room()

    def init_ragged_metadata(self, batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        """Prepare a union. `slots`: joint slots of each row on the host, int64, in order, one for
        each of its tokens."""
        if not batch.forward_mode.is_extend():
            self._plan_decode(self.decode_wrappers[0], batch, slots)
            self.forward_metadata = DecodeMetadata(self.decode_wrappers)
            return
        self.prefill_wrappers_paged[0].begin_forward(
            *(_ends(batch.extend_seq_lens_cpu), *_pages(batch, slots)),
            *(*self._shape, self._head_dim, 1),
            q_data_type=self._types["q"],
            kv_data_type=self._types["kv"],
            non_blocking=True,
        )
        self.forward_metadata = PrefillMetadata(
            self.prefill_wrappers_paged, use_ragged=False, extend_no_prefix=False
        )

    def make_joint_metadata(
        self, batch: ForwardBatch, slots: list[torch.Tensor], width: int
    ) -> DecodeMetadata:
        """That of decode steps of as many rows with up to `width` slots each, in memory that stays;
        filled by `slots`, and used by what is computed next."""
        rows, like = batch.batch_size, batch.seq_lens.to(torch.int32)
        wrapper = flashinfer_backend.BatchDecodeWithPagedKVCacheWrapper(
            self.workspace_buffer,
            "NHD",
            backend=self.decode_backend,
            use_cuda_graph=True,
            use_tensor_cores=self.decode_use_tensor_cores,
            paged_kv_indptr_buffer=like.new_zeros(rows + 1),
            # Rows that share a prefix name its slots once each.
            paged_kv_indices_buffer=self._room.take(rows * width, like, torch.int32),
            paged_kv_last_page_len_buffer=like.new_ones(rows),
        )
        metadata = DecodeMetadata([wrapper])
        self.fill_joint_metadata(metadata, batch, slots)
        self.forward_metadata = metadata
        return metadata

    def fill_joint_metadata(
        self, metadata: DecodeMetadata, batch: ForwardBatch, slots: list[torch.Tensor]
    ) -> None:
        """Let a recorded step attend over these; see `init_ragged_metadata`."""
        self._plan_decode(metadata.decode_wrappers[0], batch, slots)

    def _plan_decode(self, wrapper: Any, batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        wrapper.begin_forward(
            *_pages(batch, slots),
            *(*self._shape, self._head_dim, 1),
            data_type=self._types["kv"],
            q_data_type=self._types["q"],
            non_blocking=True,
        )


def _pages(batch: ForwardBatch, slots: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Where each row's slots end, the slots, and how full each row's last is. A plan reads all but
    the slots on the host: on the device they would be waited for."""
    last = torch.ones(len(slots), dtype=torch.int32)
    indices = torch.cat(slots).to(torch.int32)
    return _ends(map(len, slots)), copy_to(batch.seq_lens.device, indices), last


def _ends(lengths: Any) -> torch.Tensor:
    """int32 [rows + 1] on the host."""
    return torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))
