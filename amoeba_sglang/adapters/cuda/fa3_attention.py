"""Upstream's FlashAttention 3 at every degree: our slots are its pages.

It reads pools of [pages, heads, page, D], and those of [slots, heads, D] as pages of one token.
What it computes ahead of a step for one number of heads (`scheduler_metadata`) is left to its
kernels in joint steps, since the number is another at each degree. Not yet run on a GPU.
"""

from sglang.srt.layers.attention.flashattention_backend import (
    FlashAttentionBackend,
    FlashAttentionMetadata,
)

from amoeba_sglang.adapters.cuda.page_tables import PageTables


class Fa3Attention(PageTables, FlashAttentionBackend):
    """Attends over explicit slots per row, too."""

    metadata_class = FlashAttentionMetadata
