"""FlashAttention 3's calls over paged KV, as upstream's `fa3` makes them, computed by torch.

Every call is bound to the signature of the installed function, and what the kernel refuses is
refused here: the limits are those of sglang-kernel 0.4.10 (`flash_attn.py`) and of FlashAttention
3's `flash_api.cpp`, read, not run.
"""

from collections.abc import Callable
from typing import Any

import torch

from amoeba_sglang.planes.reference.calls import (
    HALF_TYPES,
    KernelRefusal,
    attend,
    bind,
    spans_of,
)


class Fa3Calls:
    """`real_*`: the functions whose signatures are held against."""

    def __init__(self, real_attend: Callable[..., Any], real_plan: Callable[..., Any]) -> None:
        self._attend, self._plan = real_attend, real_plan

    def plan(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`get_scheduler_metadata`: here the shape that it is made for."""
        call = bind(self._plan, args, kwargs)
        rows, heads = call["batch_size"], (call["num_heads"], call["num_heads_k"])
        return torch.tensor([rows, *heads, call["headdim"]], dtype=torch.int32)

    def with_kvcache(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`flash_attn_with_kvcache` of [tokens, heads, D] over pages [pages, page, KV heads, D];
        the queries of a row are its last tokens'."""
        call = bind(self._attend, args, kwargs)
        query, keys, values = call["q"], call["k_cache"], call["v_cache"]
        _require_plain(call)
        _require_pools(query, keys, values)
        lengths, table = call["cache_seqlens"], call["page_table"]
        for name in ("cache_seqlens", "page_table", "cu_seqlens_q"):
            if call[name] is None or call[name].dtype != torch.int32:
                raise KernelRefusal(f"fa3: {name} is not of int32")
        spans = spans_of(call["cu_seqlens_q"])
        new = [span.stop - span.start for span in spans]
        if not len(spans) == len(lengths) == len(table) or spans[-1].stop != len(query):
            raise KernelRefusal(f"fa3: rows {new} of {len(query)} queries, {len(table)} of a table")
        if max(new) > call["max_seqlen_q"]:
            raise KernelRefusal(f"fa3: rows of {new}, max_seqlen_q {call['max_seqlen_q']}")
        shape = [len(spans), query.shape[1], *keys.shape[2:]]
        plan = call["scheduler_metadata"]
        if plan is not None and plan.tolist() != shape:
            raise KernelRefusal(f"fa3: planned for {plan.tolist()}, called with {shape}")
        out = call["out"] if call["out"] is not None else torch.empty_like(query)
        page = keys.shape[1]
        for mine, row, length in zip(spans, table, lengths.tolist(), strict=True):
            pages = row[: -(-length // page)].long()
            seen = [pool[pages].flatten(0, 1)[:length] for pool in (keys, values)]
            out[mine], _ = attend(query[mine], *seen, call["softmax_scale"], causal=True)
        return out


def _require_plain(call: dict[str, Any]) -> None:
    """What upstream can ask for and is not computed here."""
    wanted = ("k", "v", "qv", "rotary_cos", "sinks", "k_descale", "score_mod")
    asked = [name for name in wanted if call[name] is not None]
    if call["softcap"] or call["window_size"] != (-1, -1) or call["return_softmax_lse"]:
        asked.append("a cap, a window or the sums")
    if asked or not call["causal"] or call["ver"] != 3:
        raise KernelRefusal(f"fa3: {', '.join(asked) or 'no mask'} is not computed here")


def _require_pools(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    types = {query.dtype, keys.dtype, values.dtype}
    if len(types) > 1 or query.dtype not in HALF_TYPES:
        raise KernelRefusal(f"fa3: {', '.join(map(str, types))}, only one of {HALF_TYPES}")
    if query.dim() != 3 or keys.dim() != 4 or keys.shape != values.shape:
        raise KernelRefusal(f"fa3: {tuple(query.shape)} over {tuple(keys.shape)}")
    if query.shape[1] % keys.shape[2]:
        raise KernelRefusal(f"fa3: {query.shape[1]} heads of {keys.shape[2]} KV heads")
    if query.shape[2] % 8 or query.shape[2] > 256:
        raise KernelRefusal(f"fa3: heads of {query.shape[2]}, only multiples of 8 up to 256")
    for tensor in (query, keys, values):
        if tensor.stride(-1) != 1:
            raise KernelRefusal("fa3: the last dimension is not packed")
