"""Upstream's attentions of GPUs over a pool of ours, and unions for them, on the host."""

from types import SimpleNamespace

import numpy as np
import torch
from sglang.srt import runtime_context
from sglang.srt.configs.model_config import AttentionArch
from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from transformers import LlamaConfig

from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.model.union_batch import build_union
from amoeba_sglang.adapters.reference.attention import make_attention
from amoeba_sglang.adapters.reference.backend import ReferenceBackend
from amoeba_sglang.config import GpuChoice
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import Row, StepRecord

TOKENS, HEADS, KV_HEADS, DIM, CONTEXT = 192, 8, 4, 16, 128
CHAIN = DegreeChain((1, 2, 4))
# What attends on which GPU: its type, tokens of a KV page.
KINDS = {
    "triton": (GpuChoice("sm80", "triton"), torch.float32, 1),
    "flashinfer": (GpuChoice("sm80", "flashinfer"), torch.bfloat16, 1),
    "fa3": (GpuChoice("sm90", "fa3"), torch.bfloat16, 16),
    "fa3 by token": (GpuChoice("sm90", "fa3"), torch.bfloat16, 1),
    "trtllm by XQA": (GpuChoice("sm90", "trtllm_mha"), torch.bfloat16, 16),
    "trtllm-gen": (GpuChoice("sm100", "trtllm_mha"), torch.bfloat16, 16),
}
_MODEL = SimpleNamespace(
    num_attention_heads=HEADS, get_max_num_attention_heads=lambda: HEADS,
    get_num_kv_heads=lambda *_: KV_HEADS, head_dim=DIM, v_head_dim=DIM, swa_v_head_dim=DIM,
    context_len=CONTEXT, hidden_size=HEADS * DIM, is_multimodal=False, is_encoder_decoder=False,
    attention_arch=AttentionArch.MHA, linear_attn_registry_result=None,
    is_local_attention_model=False,
    hf_config=LlamaConfig(architectures=["LlamaForCausalLM"]),
    hf_text_config=LlamaConfig(num_attention_heads=HEADS),
)  # fmt: skip


def make(kind, degree, page=None):
    """A pool of `kind` with random KV in it, at a degree, and the attention over it."""
    _, dtype, usual = KINDS[kind]
    page = page or usual
    pool = ElasticKVPool(TOKENS, page, dtype, KV_HEADS, DIM, 1, "cpu", False)
    rows = ReqToTokenPool(4, CONTEXT, "cpu", enable_memory_saver=False)
    allocator = SimpleNamespace(get_kvcache=lambda: pool)
    runner = SimpleNamespace(
        req_to_token_pool=rows, token_to_kv_pool=pool, page_size=page, device="cpu", gpu_id=0,
        token_to_kv_pool_allocator=allocator, server_args=runtime_context.get_server_args(),
        model=torch.nn.Module(), max_running_requests=4, is_draft_worker=False,
        spec_algorithm=SpeculativeAlgorithm.NONE, sliding_window_size=None, model_config=_MODEL,
        kv_cache_dtype=dtype, dtype=dtype, kv_cache_dtype_str="auto",
        decode_num_tokens_per_req=lambda: 1,
        prefill_attention_backend_str="", decode_attention_backend_str="",
        kv_index_translator=KVIndexTranslator(
            req_to_token=rows.req_to_token, token_to_kv_pool_allocator=allocator,
            token_to_kv_pool=pool, page_size=page, device="cpu",
        ),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for buffer in (pool.k_buffer[0], pool.v_buffer[0]):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    pool.view_layer(0, degree)
    runner.attn_backend = make_attention(runner)
    return pool, ReferenceBackend(KINDS[kind][0]).attention_at(runner, degree)


def tell(rows, seed, page):
    """What a worker tells of rows (tokens, new ones), and its peers' mirror of it."""
    order = np.random.default_rng(seed).permutation(TOKENS // page) + 1
    mirror, told = RowMirror(), []
    for number, (length, new) in enumerate(rows):
        count = -(-length // page)
        slots, order = order[:count], order[count:]
        mirror.apply(number, 0, slots)
        told.append(Row(number, length, new, 0, slots))
    extend = any(new > 1 for _, new in rows)
    return StepRecord(1, 1, 0, -1, bool(rows), extend=extend, rows=tuple(told)), mirror


def make_union(told, page, degree, rows=0):
    """Of what each worker tells, its rows filled up to `rows`."""
    records, mirrors = zip(*(tell(mine, seed, page) for seed, mine in enumerate(told)), strict=True)
    return build_union(
        list(records), list(mirrors), CHAIN, degree,
        size=TOKENS // page, page=page, device="cpu", rows=rows,
    )  # fmt: skip
