"""Upstream's FlashInfer attention at every degree: our slots of one token are its pages.

A plan is made for a number of heads, and what it writes is read until its kernels have run: so each
degree above 1 has an instance with wrappers of its own. At degree 1 nothing here is called. Not yet
run on a GPU.
"""

from typing import Any

import numpy as np
import torch
from sglang.srt.layers.attention.flashinfer_backend import (
    DecodeMetadata,
    FlashInferAttnBackend,
    PrefillMetadata,
)
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.adapters.model.device_copy import copy_to


class FlashInferAttention(FlashInferAttnBackend):
    """Of one degree; attends over explicit slots per row, too."""

    def __init__(self, model_runner: Any, degree: int = 1) -> None:
        super().__init__(model_runner)
        updater = self.indices_updater_decode
        self._shape = (updater.num_qo_heads // degree, updater.num_kv_heads // degree)
        self._types = {"q": updater.q_data_type, "kv": updater.data_type}
        self._head_dim = updater.head_dim

    def init_ragged_metadata(self, batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        """Prepare a union. `slots`: joint slots of each row on the host, int64, in order, one for
        each of its tokens."""
        extends = batch.forward_mode.is_extend()
        # Plans read these on the host: on the device they would be waited for.
        keys = _ends(map(len, slots))
        last = torch.ones(len(slots), dtype=torch.int32)
        indices = torch.cat(slots).to(torch.int32)
        pages = keys, copy_to(batch.seq_lens.device, indices), last
        if extends:
            self.prefill_wrappers_paged[0].begin_forward(
                *(_ends(batch.extend_seq_lens_cpu), *pages),
                *(*self._shape, self._head_dim, 1),
                q_data_type=self._types["q"],
                kv_data_type=self._types["kv"],
                non_blocking=True,
            )
            self.forward_metadata = PrefillMetadata(
                self.prefill_wrappers_paged, use_ragged=False, extend_no_prefix=False
            )
            return
        self.decode_wrappers[0].begin_forward(
            *pages,
            *(*self._shape, self._head_dim, 1),
            data_type=self._types["kv"],
            q_data_type=self._types["q"],
            non_blocking=True,
        )
        self.forward_metadata = DecodeMetadata(self.decode_wrappers)


def _ends(lengths: Any) -> torch.Tensor:
    """int32 [rows + 1] on the host."""
    return torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))
