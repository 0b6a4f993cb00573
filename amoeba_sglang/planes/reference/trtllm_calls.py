"""FlashInfer's paged attention calls, as upstream's `trtllm_mha` makes them, computed by torch.

Every call is bound to the signature of the installed library, and what its kernels refuse is
refused here: the limits are those of flashinfer 0.7.2, `jit/xqa.py` (gen_xqa_module), `xqa.py`
(xqa) and `prefill.py` (trtllm_fmha_v2_prefill, trtllm_batch_context_with_kv_cache). Of trtllm-gen,
which decodes on sm100, its Python says less: it is held to XQA's limits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from amoeba_sglang.planes.reference.calls import HALF_TYPES, KernelRefusal, attend, bind

XQA_PAGES = (16, 32, 64, 128)


class TrtllmCalls:
    """The three calls. `real_*`: the library's functions, whose signatures are held against."""

    def __init__(
        self,
        real_decode: Callable[..., Any],
        real_prefill: Callable[..., Any],
        real_context: Callable[..., Any],
    ) -> None:
        self._decode, self._prefill, self._context = real_decode, real_prefill, real_context

    def decode(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`trtllm_batch_decode_with_kv_cache` by XQA: a token a row."""
        call = bind(self._decode, args, kwargs)
        query, (keys, values) = call["query"], call["kv_cache"]
        _require_types(query, keys, values)
        _require_table(call["block_tables"], call["seq_lens"], dims=2)
        page, dim = keys.shape[2:]
        if page not in XQA_PAGES:
            raise KernelRefusal(f"XQA: pages of {page} tokens, only {XQA_PAGES}")
        if dim % 16 or not 16 <= dim <= 512:
            raise KernelRefusal(f"XQA: heads of {dim}, only multiples of 16 up to 512")
        if len(query) != len(call["seq_lens"]) or call["q_len_per_req"] != 1:
            raise KernelRefusal(f"XQA: {len(query)} queries of {len(call['seq_lens'])} rows")
        ends = list(range(len(query) + 1))
        return _attend(query, call["kv_cache"], ends, call, call["block_tables"])

    def prefill(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`trtllm_fmha_v2_prefill` over separate K and V pools: their blocks are addressed from
        K's, so V must lie whole blocks behind it."""
        call = bind(self._prefill, args, kwargs)
        query, (keys, values) = call["qkv"]
        if call["input_layout"] != "Q_PAGED_KV_HND":
            raise KernelRefusal(f"fmha_v2: layout {call['input_layout']} of pools of HND")
        _require_types(query, keys, values)
        tables = call["block_tables"]
        _require_table(tables, call["seq_lens"], dims=3)
        distance, rest = divmod(
            values.data_ptr() - keys.data_ptr(), keys.stride(0) * keys.element_size()
        )
        if rest or not torch.equal(tables[:, 1], tables[:, 0] + distance):
            raise KernelRefusal("fmha_v2: V is not whole blocks behind K, as the table says")
        return _attend(query, (keys, values), _ends(call), call, tables[:, 0])

    def context(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`trtllm_batch_context_with_kv_cache`."""
        call = bind(self._context, args, kwargs)
        query, (keys, values) = call["query"], call["kv_cache"]
        _require_types(query, keys, values)
        _require_table(call["block_tables"], call["seq_lens"], dims=2)
        return _attend(query, (keys, values), _ends(call), call, call["block_tables"])


def _ends(call: dict[str, Any]) -> list[int]:
    ends = call["cum_seq_lens_q"].tolist()
    longest = max(b - a for a, b in zip(ends, ends[1:], strict=False))
    if ends[0] or longest > call["max_q_len"]:
        raise KernelRefusal(f"prefill: rows end at {ends}, max_q_len {call['max_q_len']}")
    keys = call["cum_seq_lens_kv"].diff()
    if not torch.equal(keys, call["seq_lens"]):
        raise KernelRefusal(f"prefill: {keys.tolist()} keys, seq_lens {call['seq_lens'].tolist()}")
    return ends


def _require_types(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    types = {query.dtype, keys.dtype, values.dtype}
    if len(types) > 1 or query.dtype not in HALF_TYPES:
        raise KernelRefusal(f"trtllm: {', '.join(map(str, types))}, only one of {HALF_TYPES}")
    if query.shape[1] % keys.shape[1]:
        raise KernelRefusal(f"trtllm: {query.shape[1]} heads of {keys.shape[1]} KV heads")
    if not (keys.is_contiguous() and values.is_contiguous() and query.stride(-1) == 1):
        raise KernelRefusal("trtllm: pools whose strides are not those of their shape")


def _require_table(tables: torch.Tensor, lengths: torch.Tensor, dims: int) -> None:
    if tables.dim() != dims or not tables.is_contiguous():
        raise KernelRefusal(f"trtllm: a page table of {tables.dim()} dimensions, not packed {dims}")
    for name, vector in (("page table", tables), ("seq_lens", lengths)):
        if vector.dtype != torch.int32:
            raise KernelRefusal(f"trtllm: {name} of {vector.dtype}, only int32")


def _attend(
    query: torch.Tensor,
    pools: tuple[torch.Tensor, torch.Tensor],
    ends: list[int],
    call: dict[str, Any],
    tables: torch.Tensor,
) -> torch.Tensor:
    """[tokens, heads, D] queries over K and V [pages, KV heads, page, D] -> [tokens, heads, D].

    Row r has the queries ends[r]:ends[r + 1], its last ones; causal, in float32.
    """
    page, scale = pools[0].shape[2], call["bmm1_scale"]
    out = call["out"] if call["out"] is not None else torch.empty_like(query)
    for row, length in enumerate(call["seq_lens"].tolist()):
        pages = tables[row, : -(-length // page)].long()
        keys, values = (pool[pages].transpose(1, 2).flatten(0, 1)[:length] for pool in pools)
        mine = slice(ends[row], ends[row + 1])
        values = values.float() * call["bmm2_scale"]
        found, _ = attend(query[mine], keys, values, scale, causal=True)
        out[mine] = found.to(out.dtype)
    return out
