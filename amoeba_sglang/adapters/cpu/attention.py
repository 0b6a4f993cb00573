"""Attention over SGLang's slot-indexed KV pool with torch's fused CPU kernel, one call per group of
rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode

from amoeba_sglang.adapters.cpu.attention_plan import (
    AttentionPlan,
    Chunk,
    NewTokens,
    RowGroup,
    RowSlots,
    plan_attention,
)
from amoeba_sglang.errors import ConfigError

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MODES = (ForwardMode.DECODE, ForwardMode.EXTEND, ForwardMode.MIXED, ForwardMode.IDLE)
# Queries of a chunk that one call serves: bounds the mask at this many rows of the longest
# sequence.
_QUERY_BLOCK = 256


class CpuAttention(AttentionBackend):
    """Causal decoder attention; head counts are the layer's, so degrees may differ by layer.

    `req_to_token`, [requests, context] int32 or int64, replaces the runner's own table of
    locations. Batches that bring their own slot vectors use `init_ragged_metadata` instead of
    `init_forward_metadata`.

    The pool's buffers are [slots, heads, page, D], a slot being a page of tokens, or upstream's
    [slots, heads, D].
    """

    def __init__(self, model_runner: Any, req_to_token: torch.Tensor | None = None) -> None:
        super().__init__()
        if model_runner.use_mla_backend:
            raise ConfigError("--attention-backend amoeba_cpu cannot run MLA models")
        if not model_runner.spec_algorithm.is_none():
            raise ConfigError("--speculative-algorithm cannot run on attention backend amoeba_cpu")
        self.token_to_kv_pool = model_runner.token_to_kv_pool
        if self.token_to_kv_pool.dtype not in _DTYPES:
            raise ConfigError(
                f"--kv-cache-dtype {self.token_to_kv_pool.dtype} cannot run on attention backend "
                f"amoeba_cpu; it takes {', '.join(map(str, _DTYPES))}"
            )
        keys = self.token_to_kv_pool.get_key_buffer(self.token_to_kv_pool.start_layer)
        self._page = keys.shape[2] if keys.dim() == 4 else 1
        self._table_owner = model_runner.req_to_token_pool
        self._table = req_to_token
        self._plan: AttentionPlan | None = None
        self._new: NewTokens | None = None
        self._triangle: torch.Tensor | None = None
        self._checked: set[RadixAttention] = set()

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        table = self._table_owner.req_to_token if self._table is None else self._table
        lengths = forward_batch.seq_lens.tolist()
        rows = forward_batch.req_pool_indices.tolist()
        self._make_plan(forward_batch, RowSlots.from_table(table, rows, lengths, self._page))

    def init_ragged_metadata(self, forward_batch: ForwardBatch, slots: list[torch.Tensor]) -> None:
        """Like `init_forward_metadata`, with row i's slots given: `slots[i]` is int64, as many as
        its seq_lens[i] tokens fill.
        """
        lengths = forward_batch.seq_lens.tolist()
        self._make_plan(forward_batch, RowSlots.from_vectors(slots, lengths, self._page))

    def _make_plan(self, forward_batch: ForwardBatch, slots: RowSlots) -> None:
        mode = forward_batch.forward_mode
        if mode not in _MODES:
            raise ConfigError(f"attention backend amoeba_cpu cannot run a {mode.name} batch")
        if forward_batch.encoder_lens is not None:
            raise ConfigError("attention backend amoeba_cpu cannot run encoder-decoder models")
        if mode.is_extend():
            queries = forward_batch.extend_seq_lens.tolist()
        else:
            queries = [1] * len(slots.lengths)
        self._plan = plan_attention(slots, queries, self.token_to_kv_pool.dtype)
        self._new = NewTokens(forward_batch.out_cache_loc, self._page)
        self._cover_triangle(self._plan.chunks)

    def forward_decode(self, q, k, v, layer, forward_batch, save_kv_cache=True, **kwargs):
        return self._attend(q, k, v, layer, save=save_kv_cache, others=kwargs)

    def forward_extend(self, q, k, v, layer, forward_batch, save_kv_cache=True, **kwargs):
        return self._attend(q, k, v, layer, save=save_kv_cache, others=kwargs)

    def support_triton(self) -> bool:
        return False

    def _attend(self, q, k, v, layer, *, save: bool, others: dict[str, Any]) -> torch.Tensor:
        """q [tokens, heads * D], k and v [tokens, kv_heads, D] or None -> [tokens, heads * D]."""
        if layer not in self._checked:
            self._check(layer, q, others)
        plan, pool = self._plan, self.token_to_kv_pool
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        heads, kv_heads, size = layer.tp_q_head_num, layer.tp_k_head_num, layer.qk_head_dim
        if save and k is not None:
            self._new.store(keys, k.view(-1, kv_heads, size))
            self._new.store(values, v.view(-1, kv_heads, size))
        # Query heads that share a KV head form a dimension of their own, so that no KV head is
        # ever repeated.
        q = q.reshape(-1, kv_heads, heads // kv_heads, size)
        assert q.shape[0] == plan.tokens, (q.shape, plan.tokens)
        whole = len(plan.groups) == 1 and plan.groups[0].tokens is None
        if whole:
            out = self._attend_rows(q, keys, values, layer.scaling, plan.groups[0])
            return out.reshape(-1, heads * size)
        out = torch.empty_like(q)
        for group in plan.groups:
            rows = q.index_select(0, group.tokens)
            out.index_copy_(
                0, group.tokens, self._attend_rows(rows, keys, values, layer.scaling, group)
            )
        for chunk in plan.chunks:
            if chunk.prefix or k is None:
                seen = chunk.prefix + chunk.stop - chunk.start
                k_all, v_all = (chunk.slots.gather(b)[0, :, :seen] for b in (keys, values))
            else:
                k_all, v_all = (part[chunk.start : chunk.stop].transpose(0, 1) for part in (k, v))
            self._attend_chunk(q, k_all, v_all, layer.scaling, chunk, out=out)
        return out.reshape(-1, heads * size)

    def _attend_rows(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        group: RowGroup,
    ) -> torch.Tensor:
        """q [rows, kv_heads, repeat, D], buffers of the pool -> the shape of q."""
        k, v = (group.slots.gather(buffer)[:, :, : group.longest] for buffer in (keys, values))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, scale=scale)

    def _attend_chunk(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float,
        chunk: Chunk,
        *,
        out: torch.Tensor,
    ) -> None:
        """Fill out[start:stop] from k and v, [kv_heads, prefix + n, D]; KV heads take the place of
        batch rows.
        """
        repeat = q.shape[2]
        k = k.unsqueeze(1).expand(-1, repeat, -1, -1)
        v = v.unsqueeze(1).expand(-1, repeat, -1, -1)
        if chunk.prefix == 0:
            queries = q[chunk.start : chunk.stop].permute(1, 2, 0, 3)
            result = F.scaled_dot_product_attention(queries, k, v, is_causal=True, scale=scale)
            out[chunk.start : chunk.stop] = result.permute(2, 0, 1, 3)
            return
        for start in range(chunk.start, chunk.stop, _QUERY_BLOCK):
            stop = min(start + _QUERY_BLOCK, chunk.stop)
            seen = chunk.prefix + stop - chunk.start
            # Query i of the block sees all but the last (block - 1 - i) of the `seen` keys.
            skip = self._triangle.shape[1] - seen
            mask = self._triangle[_QUERY_BLOCK - (stop - start) :, skip:]
            result = F.scaled_dot_product_attention(
                q[start:stop].permute(1, 2, 0, 3),
                k[:, :, :seen],
                v[:, :, :seen],
                attn_mask=mask,
                scale=scale,
            )
            out[start:stop] = result.permute(2, 0, 1, 3)

    def _cover_triangle(self, chunks: tuple[Chunk, ...]) -> None:
        """Keep one causal mask whose right-hand part serves every block of every chunk with a
        prefix.
        """
        needed = max((c.prefix + c.stop - c.start for c in chunks if c.prefix), default=0)
        if (self._triangle is not None and self._triangle.shape[1] >= needed) or needed == 0:
            return
        # Grow by doubling: a long prompt arrives in chunks, each longer than the last.
        width = max(_QUERY_BLOCK, 1 << (needed - 1).bit_length())
        mask = torch.full((_QUERY_BLOCK, width), float("-inf"), dtype=self.token_to_kv_pool.dtype)
        self._triangle = mask.triu_(width - _QUERY_BLOCK + 1)

    def _check(self, layer: RadixAttention, q: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Refuse what the calls above would compute wrongly."""
        refused = {
            "a sliding window": layer.sliding_window_size is not None
            and layer.sliding_window_size > -1,
            "a logit cap": bool(layer.logit_cap),
            "cross attention": layer.is_cross_attention,
            f"attention of type {layer.attn_type}": layer.attn_type != AttentionType.DECODER,
            "keys and values of different head sizes": layer.qk_head_dim != layer.v_head_dim,
            "a temperature by length": layer.xai_temperature_len > 0,
            "quantised KV scales": layer.k_scale is not None or layer.v_scale is not None,
            f"--kv-cache-dtype {self.token_to_kv_pool.dtype} with --dtype {q.dtype}": (
                q.dtype != self.token_to_kv_pool.dtype
            ),
        }
        refused |= {f"argument {name}": value is not None for name, value in kwargs.items()}
        for what, present in refused.items():
            if present:
                raise ConfigError(
                    f"layer {layer.layer_id} uses {what}, "
                    "which attention backend amoeba_cpu does not support"
                )
        self._checked.add(layer)
