"""What joint steps add to upstream's attentions that read a page table: one of joint slots.

They read pools of pages that hold some heads, which is what a layer of ElasticKVPool is at any
degree, and take the number of heads from the layer and the tensors. So one instance serves all
degrees. At degree 1 nothing here is called. Not yet run on a GPU.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.adapters.cuda.room import Room
from amoeba_sglang.adapters.model.device_copy import copy_to


class PageTables:
    """Attends over explicit slots per row, too: to be inherited before one of upstream's.

    Both of its metadata are of the same five fields, lengths and tables int32.
    """

    metadata_class: type
    forward_metadata: Any

    @cached_property
    def _room(self) -> Room:
        return Room()

    def make_joint_metadata(
        self, batch: ForwardBatch, slots: list[torch.Tensor], width: int
    ) -> Any:
        """That of decode steps of as many rows with up to `width` slots each, in memory that stays;
        filled by `slots`, and used by what is computed next."""
        rows, like = batch.batch_size, batch.seq_lens
        ends = torch.arange(rows + 1, dtype=torch.int32, device=like.device)
        metadata = self.metadata_class(
            cache_seqlens_int32=like.to(torch.int32),
            max_seq_len_q=1,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends.clone(),
            page_table=self._room.take(rows * width, like, torch.int32).view(rows, width),
        )
        self.fill_joint_metadata(metadata, batch, slots)
        self.forward_metadata = metadata
        return metadata

    def fill_joint_metadata(
        self, metadata: Any, batch: ForwardBatch, slots: list[torch.Tensor]
    ) -> None:
        """Let a recorded step attend over these; see `init_ragged_metadata`."""
        counts = np.array([len(mine) for mine in slots])
        rows = np.arange(len(slots)).repeat(counts)
        places = np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)
        packed = torch.from_numpy(np.stack([rows, places, np.concatenate(slots)]))
        rows_there, places_there, ids = copy_to(batch.seq_lens.device, packed)
        metadata.cache_seqlens_int32.copy_(batch.seq_lens)
        # Whatever is left of earlier steps may be unmapped by now.
        metadata.page_table.zero_()
        metadata.page_table[rows_there, places_there] = ids.to(torch.int32)

    def init_ragged_metadata(self, batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        """Prepare a union. `slots`: joint slots of each row on the host, int64, in order, as many
        as it fills."""
        rows, width = len(slots), max(map(len, slots))
        extends = batch.forward_mode.is_extend()
        new = batch.extend_seq_lens_cpu if extends else [1] * rows
        ends = batch.seq_lens_cpu.numpy()
        # Some kernels take a row's length from the width of the table and ignore strides.
        table = np.zeros((rows, width), dtype=np.int32)
        for row, mine in zip(table, slots, strict=True):
            row[: len(mine)] = mine.numpy()
        # One copy to the device: each costs as much as a small kernel.
        parts = [ends, np.cumsum([0, *new]), np.cumsum([0, *ends]), table.ravel()]
        packed = torch.from_numpy(np.concatenate(parts).astype(np.int32))
        lengths, queries, keys, pages = copy_to(batch.seq_lens.device, packed).split(
            [rows, rows + 1, rows + 1, rows * width]
        )
        self.forward_metadata = self.metadata_class(
            cache_seqlens_int32=lengths,
            max_seq_len_q=max(new),
            cu_seqlens_q=queries,
            cu_seqlens_k=keys,
            page_table=pages.view(rows, width),
        )
