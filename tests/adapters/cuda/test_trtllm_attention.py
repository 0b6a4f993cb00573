"""Upstream's trtllm_mha over our pools and joint slots, at every degree, by reference kernels."""

from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sglang.srt import runtime_context
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from amoeba_sglang.adapters.cuda.trtllm_attention import TrtllmAttention
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.model.union_batch import build_union
from amoeba_sglang.adapters.reference.libraries import reference_calls, trtllm_names
from amoeba_sglang.control.layout.locations import locations_at
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.reference.trtllm_calls import KernelRefusal

PAGE, SLOTS, HEADS, KV_HEADS, DIM, CONTEXT = 16, 12, 8, 4, 16, 128
CHAIN = DegreeChain((1, 2, 4))
_MODEL = SimpleNamespace(
    num_attention_heads=HEADS, get_max_num_attention_heads=lambda: HEADS,
    get_num_kv_heads=lambda *_: KV_HEADS, head_dim=DIM, v_head_dim=DIM,
    context_len=CONTEXT, hidden_size=HEADS * DIM, is_multimodal=False, is_encoder_decoder=False,
    hf_config=SimpleNamespace(architectures=[]),
)  # fmt: skip


class StoringPool(ElasticKVPool):
    """Stores by plain indexing, in the place of upstream's kernel."""

    def set_kv_buffer(self, layer, where, keys, values, *scales):
        slots, offsets = where.loc // self.page_size, where.loc % self.page_size
        for pools, new in ((self.k_buffer, keys), (self.v_buffer, values)):
            pool = pools[layer.layer_id]
            pool[slots, :, offsets] = new.view(-1, *pool.shape[1::2])


def make_attention(page=PAGE):
    pool = StoringPool(SLOTS * page, page, torch.bfloat16, KV_HEADS, DIM, 1, "cpu", False)
    rows = ReqToTokenPool(4, CONTEXT, "cpu", enable_memory_saver=False)
    allocator = SimpleNamespace(get_kvcache=lambda: pool)
    runner = SimpleNamespace(
        req_to_token_pool=rows, token_to_kv_pool=pool, page_size=page, device="cpu",
        token_to_kv_pool_allocator=allocator, server_args=runtime_context.get_server_args(),
        model=torch.nn.Module(), max_running_requests=4, is_draft_worker=False,
        spec_algorithm=SpeculativeAlgorithm.NONE, sliding_window_size=None, model_config=_MODEL,
        kv_cache_dtype=torch.bfloat16, dtype=torch.bfloat16,
        prefill_attention_backend_str="trtllm_mha", decode_attention_backend_str="trtllm_mha",
        kv_index_translator=KVIndexTranslator(
            req_to_token=rows.req_to_token, token_to_kv_pool_allocator=allocator,
            token_to_kv_pool=pool, page_size=page, device="cpu",
        ),
    )  # fmt: skip
    return pool, TrtllmAttention(runner)


@pytest.fixture(params=["sm90", "sm100"])
def calls(request):
    """The kernels of a kind of GPU."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    calls = reference_calls()
    config = SimpleNamespace(
        page_size_kib=4, mlp_elements=3 * 64 * 48, group_size=4, emulation=None, reference=None
    )
    facts = {"is_sm90": False, "is_sm100": False, "is_sm120": False, f"is_{request.param}": True}
    with ExitStack() as stack:
        stack.enter_context(runtime_context.use_context(context))
        stack.enter_context(runtime_context.override_platform(**facts))
        stack.enter_context(context.override_server_args(device="cpu", _amoeba=config))
        runtime_context.get_parallel().override_permanently(
            tp_rank=0, pp_rank=0, attn_tp_rank=0, attn_dp_rank=0, attn_tp_size=1, attn_dcp_size=1
        )
        for module, names in trtllm_names(calls).items():
            stack.enter_context(patch.multiple(module, create=True, **names))
        yield calls


def tell(rows, seed):
    """What a worker tells of rows (tokens, new ones), and its peers' mirror of it."""
    order, mirror, told = np.random.default_rng(seed).permutation(SLOTS) + 1, RowMirror(), []
    for number, (length, new) in enumerate(rows):
        count = -(-length // PAGE)
        slots, order = order[:count], order[count:]
        mirror.apply(number, 0, slots)
        told.append(Row(number, length, new, 0, slots))
    extend = any(new > 1 for _, new in rows)
    return StepRecord(1, 1, 0, -1, bool(rows), extend=extend, rows=tuple(told)), mirror


def attention_by_definition(query, pool, slots, length, new, group):
    """[new, heads, D] of the last tokens of one row, from the bytes of the pool at `slots`."""
    where = torch.from_numpy(locations_at(slots.numpy(), 0, length, PAGE))
    keys, values = (
        buffer[where // PAGE, :, where % PAGE].float().repeat_interleave(group, 1)
        for buffer in (pool.k_buffer[0], pool.v_buffer[0])
    )
    out = []
    for number, token in enumerate(query.float()):
        seen = length - new + number + 1
        scores = torch.einsum("hd,khd->hk", token, keys[:seen]) * DIM**-0.5
        out.append(torch.einsum("hk,khd->hd", scores.softmax(-1), values[:seen]))
    return torch.stack(out)


STEPS = {
    "decode": [[(37, 1), (16, 1)], [], [(5, 1)], [(50, 1)]],
    "mixed": [[(37, 1)], [(40, 24), (9, 1)], [], [(50, 1)]],
    "prefill": [[(37, 37)], [(40, 24)], [(16, 16)], []],
}


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("step", STEPS)
def test_joint_rows_see_their_own_tokens(calls, degree, step):
    pool, attention = make_attention()
    pool.view_layer(0, degree)
    generator = torch.Generator().manual_seed(1)
    for buffer in (pool.k_buffer[0], pool.v_buffer[0]):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    rows = STEPS[step][:degree]
    records, mirrors = zip(*(tell(mine, seed) for seed, mine in enumerate(rows)), strict=True)
    union = build_union(
        list(records), list(mirrors), CHAIN, degree, size=SLOTS, page=PAGE, device="cpu"
    )
    tokens = sum(union.tokens)
    query, keys, values = (
        torch.randn(tokens, heads // degree * DIM, generator=generator).bfloat16()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    layer = RadixAttention(HEADS // degree, DIM, DIM**-0.5, KV_HEADS // degree, layer_id=0)
    attention.init_ragged_metadata(union.batch, union.slots)
    decodes = union.batch.forward_mode.is_decode()
    forward = attention.forward_decode if decodes else attention.forward_extend
    found = forward(query, keys, values, layer, union.batch).view(tokens, -1, DIM)
    at = 0
    for slots, (length, new) in zip(
        union.slots, [row for mine in rows for row in mine], strict=True
    ):
        mine = query[at : at + new].view(new, -1, DIM)
        expected = attention_by_definition(mine, pool, slots, length, new, HEADS // KV_HEADS)
        torch.testing.assert_close(found[at : at + new].float(), expected, atol=0.02, rtol=0.02)
        at += new
    prefills = "prefill" if attention.use_fmha_v2 else "context"
    assert calls.counts == {"decode": 0, "prefill": 0, "context": 0} | {
        "decode" if decodes else prefills: 1
    }


def test_pages_that_the_kernel_has_not_are_refused(calls):
    pool, attention = make_attention(page=8)
    pool.view_layer(0, 2)
    row = Row(0, 9, 1, 0, np.array([3, 4]))
    records = [StepRecord(1, 1, 0, -1, True, rows=(row,)), StepRecord(1, 1, 0, -1, False)]
    mirrors = [RowMirror(), RowMirror()]
    mirrors[0].apply(0, 0, row.slots)
    union = build_union(records, mirrors, CHAIN, 2, size=SLOTS, page=8, device="cpu")
    attention.init_ragged_metadata(union.batch, union.slots)
    layer = RadixAttention(HEADS // 2, DIM, DIM**-0.5, KV_HEADS // 2, layer_id=0)
    rows = (torch.zeros(1, heads // 2 * DIM).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS))
    with pytest.raises(KernelRefusal, match="pages of 8 tokens"):
        attention.forward_decode(*rows, layer, union.batch)
