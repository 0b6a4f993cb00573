"""Upstream's `trtllm_mha` at every degree: our slots are its page ids.

Its kernels (XQA and fmha_v2 on sm90 and sm120, trtllm-gen on sm100) read pools of [pages, heads,
page, D]. Not yet run on a GPU.
"""

from sglang.srt.layers.attention.trtllm_mha_backend import TRTLLMHAAttnBackend, TRTLLMMHAMetadata

from amoeba_sglang.adapters.cuda.page_tables import PageTables


class TrtllmAttention(PageTables, TRTLLMHAAttnBackend):
    """Attends over explicit slots per row, too."""

    metadata_class = TRTLLMMHAMetadata
