"""The calls of upstream's Triton attention, computed by torch.

Every call is bound to the signature of the installed function.
"""

from collections.abc import Callable
from typing import Any

import torch

from amoeba_sglang.planes.reference.calls import KernelRefusal, attend, bind, spans_of


class TritonCalls:
    """`real_decode`, `real_extend`: upstream's functions, whose signatures are held against."""

    def __init__(self, real_decode: Callable[..., Any], real_extend: Callable[..., Any]) -> None:
        self._decode, self._extend = real_decode, real_extend

    def decode(self, *args: Any, **kwargs: Any) -> None:
        """`decode_attention_fwd`: a token a row, over all of its indices."""
        call = bind(self._decode, args, kwargs)
        query, out = call["q"], call["o"]
        _require_plain(call, query)
        splits = call["num_kv_splits"]
        if splits.shape != (len(query),) or not 0 < int(splits.max()) <= call["max_kv_splits"]:
            raise KernelRefusal(f"triton: KV splits {splits.tolist()} of {call['max_kv_splits']}")
        for row, (keys, values) in enumerate(_rows(call, len(query))):
            mine = slice(row, row + 1)
            out[mine] = attend(query[mine], keys, values, call["sm_scale"], causal=True)[0]

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """`extend_attention_fwd`: new tokens of each row behind those at its indices; causal."""
        call = bind(self._extend, args, kwargs)
        query, out, spans = call["q_extend"], call["o_extend"], spans_of(call["qo_indptr"])
        _require_plain(call, query)
        lengths = [span.stop - span.start for span in spans]
        if spans[-1].stop != len(query) or max(lengths) > call["max_len_extend"]:
            raise KernelRefusal(f"triton: rows {lengths} of {len(query)} queries")
        if not call["is_causal"] or call["custom_mask"] is not None:
            raise KernelRefusal("triton: a mask that is not causal is not computed here")
        for mine, (keys, values) in zip(spans, _rows(call, len(spans)), strict=True):
            keys = torch.cat([keys, call["k_extend"][mine]])
            values = torch.cat([values, call["v_extend"][mine]])
            out[mine] = attend(query[mine], keys, values, call["sm_scale"], causal=True)[0]


def _require_plain(call: dict[str, Any], query: torch.Tensor) -> None:
    keys, values = call["k_buffer"], call["v_buffer"]
    if keys.dim() != 3 or keys.shape != values.shape:
        raise KernelRefusal(f"triton: pools {tuple(keys.shape)} and {tuple(values.shape)}")
    if query.dtype != keys.dtype or query.shape[1] % keys.shape[1]:
        raise KernelRefusal(f"triton: {query.dtype} {tuple(query.shape)} over {keys.dtype} pools")
    if call["page_size"] != 1 or call["logit_cap"] or call["sinks"] is not None:
        raise KernelRefusal("triton: pages, caps and sinks are not computed here")


def _rows(call: dict[str, Any], count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """K and V [tokens, KV heads, D] at the indices of each row."""
    spans, indices = spans_of(call["kv_indptr"]), call["kv_indices"]
    if len(spans) != count or len(indices) < spans[-1].stop:
        raise KernelRefusal(f"triton: {len(spans)} rows of indices for {count} rows")
    where = [indices[span] for span in spans]
    return [(call["k_buffer"][at], call["v_buffer"][at]) for at in where]
