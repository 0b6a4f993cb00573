"""The calls of upstream's Triton attention, computed by torch.

Every call is bound to the signature of the installed function.
"""

from collections.abc import Callable
from typing import Any

import torch

from amoeba_sglang.planes.reference.trtllm_calls import KernelRefusal, bind


class TritonCalls:
    """`real_decode`, `real_extend`: upstream's functions, whose signatures are held against."""

    def __init__(self, real_decode: Callable[..., Any], real_extend: Callable[..., Any]) -> None:
        self._decode, self._extend = real_decode, real_extend
        self.counts = {"decode": 0, "extend": 0}

    def decode(self, *args: Any, **kwargs: Any) -> None:
        """`decode_attention_fwd`: a token a row, over all of its indices."""
        call = bind(self._decode, args, kwargs)
        query, out = call["q"], call["o"]
        _require_plain(call, query)
        splits = call["num_kv_splits"]
        if splits.shape != (len(query),) or not 0 < int(splits.max()) <= call["max_kv_splits"]:
            raise KernelRefusal(f"triton: KV splits {splits.tolist()} of {call['max_kv_splits']}")
        self.counts["decode"] += 1
        for row, (keys, values) in enumerate(_rows(call, len(query))):
            out[row] = _attend(query[row : row + 1], keys, values, call["sm_scale"])[0]

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """`extend_attention_fwd`: new tokens of each row behind those at its indices; causal."""
        call = bind(self._extend, args, kwargs)
        query, out, starts = call["q_extend"], call["o_extend"], call["qo_indptr"].tolist()
        _require_plain(call, query)
        lengths = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        if starts[-1] != len(query) or max(lengths) > call["max_len_extend"]:
            raise KernelRefusal(f"triton: rows {lengths} of {len(query)} queries")
        if not call["is_causal"] or call["custom_mask"] is not None:
            raise KernelRefusal("triton: a mask that is not causal is not computed here")
        self.counts["extend"] += 1
        for row, (keys, values) in enumerate(_rows(call, len(lengths))):
            mine = slice(starts[row], starts[row + 1])
            keys = torch.cat([keys, call["k_extend"][mine]])
            values = torch.cat([values, call["v_extend"][mine]])
            out[mine] = _attend(query[mine], keys, values, call["sm_scale"])


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
    starts, indices = call["kv_indptr"].tolist(), call["kv_indices"]
    if len(starts) != count + 1 or len(indices) < starts[-1]:
        raise KernelRefusal(f"triton: {len(starts) - 1} rows of indices for {count} rows")
    where = [indices[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    return [(call["k_buffer"][at], call["v_buffer"][at]) for at in where]


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:
    """[new, heads, D] queries of the last of the tokens -> the same shape; in float32."""
    group, seen = query.shape[1] // keys.shape[1], len(keys) - len(query)
    k, v = (part.float().repeat_interleave(group, 1).transpose(0, 1) for part in (keys, values))
    scores = query.float().transpose(0, 1) @ k.transpose(1, 2) * scale
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(seen + 1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    return (weights @ v).transpose(0, 1).to(query.dtype)
