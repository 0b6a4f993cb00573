"""FlashInfer's wrappers of paged and ragged attention, as upstream plans and calls them, by torch.

Every call is bound to the signature of the installed library. A plan holds for the heads that it
was made for: with others the kernels compute something else and say nothing, so they are refused.
"""

from __future__ import annotations

from typing import Any

import torch

from amoeba_sglang.planes.reference.trtllm_calls import KernelRefusal, bind

_TYPES = (torch.bfloat16, torch.float16)


class Wrapper:
    """What all wrappers have. `real`: the library's class."""

    real: type
    is_cuda_graph_enabled = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bind(self.real.__init__, (self, *args), kwargs)
        self._plan: dict[str, Any] | None = None

    def begin_forward(self, *args: Any, **kwargs: Any) -> None:
        """`plan`, by its old name."""
        plan = bind(self.real.plan, (self, *args), kwargs)
        for name, vector in plan.items():
            known = isinstance(vector, torch.Tensor)
            if known and name.endswith(("indptr", "indices", "last_page_len")):
                if vector.dtype != torch.int32:
                    raise KernelRefusal(f"flashinfer: {name} of {vector.dtype}, only int32")
        self._plan = plan

    def _planned(self, query: torch.Tensor, keys: torch.Tensor) -> dict[str, Any]:
        plan = self._plan
        if plan is None:
            raise KernelRefusal(f"{self.real.__name__}: nothing is planned")
        heads = plan["num_qo_heads"], plan["num_kv_heads"]
        if heads != (query.shape[1], keys.shape[1]):
            raise KernelRefusal(
                f"{self.real.__name__}: planned for {heads} heads, called with "
                f"{query.shape[1]} and {keys.shape[1]}"
            )
        if query.dtype != keys.dtype or query.dtype not in _TYPES:
            raise KernelRefusal(f"flashinfer: {query.dtype} over {keys.dtype}, one of {_TYPES}")
        return plan


class PagedDecode(Wrapper):
    """`BatchDecodeWithPagedKVCacheWrapper` over pages of a token."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        call = bind(self.real.forward, (self, *args), kwargs)
        query, (keys, values) = call["q"], call["paged_kv_cache"]
        plan = self._planned(query, keys)
        rows = _rows(plan["indptr"], plan["indices"], plan["last_page_len"], plan["page_size"])
        if len(rows) != len(query):
            raise KernelRefusal(f"flashinfer: {len(query)} queries of {len(rows)} rows")
        scale = call["sm_scale"]
        parts = [
            attend(query[row : row + 1], keys[at], values[at], scale, causal=False)[0]
            for row, at in enumerate(rows)
        ]
        return torch.cat(parts)


class PagedPrefill(Wrapper):
    """`BatchPrefillWithPagedKVCacheWrapper` over pages of a token."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._run(bind(self.real.forward, (self, *args), kwargs))[0]

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._run(bind(self.real.forward_return_lse, (self, *args), kwargs))

    def _run(self, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        query, (keys, values) = call["q"], call["paged_kv_cache"]
        plan = self._planned(query, keys)
        rows = _rows(
            plan["paged_kv_indptr"], plan["paged_kv_indices"],
            plan["paged_kv_last_page_len"], plan["page_size"],
        )  # fmt: skip
        parts = [(keys[at], values[at]) for at in rows]
        return _attend_rows(query, parts, plan["qo_indptr"], call)


class RaggedPrefill(Wrapper):
    """`BatchPrefillWithRaggedKVCacheWrapper`: K and V of the step itself."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._run(bind(self.real.forward, (self, *args), kwargs))[0]

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._run(bind(self.real.forward_return_lse, (self, *args), kwargs))

    def _run(self, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        query, keys, values = call["q"], call["k"], call["v"]
        plan = self._planned(query, keys)
        ends = plan["kv_indptr"].tolist()
        spans = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        parts = [(keys[at], values[at]) for at in spans]
        return _attend_rows(query, parts, plan["qo_indptr"], call)


def merge_states(
    one: torch.Tensor, one_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`merge_state`: attention over two parts of the tokens -> over both. Outputs [tokens, heads,
    D], logarithms to base 2 [tokens, heads]."""
    lse = torch.logaddexp2(one_lse, other_lse)
    shares = [torch.exp2(part - lse).unsqueeze(-1) for part in (one_lse, other_lse)]
    merged = one.float() * shares[0] + other.float() * shares[1]
    return merged.to(one.dtype), lse


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[new, heads, D] over [tokens, KV heads, D] -> the same shape, and the logarithm to base 2 of
    the sums of the softmax [new, heads]; in float32. Causal: the queries are the last tokens'."""
    group = query.shape[1] // keys.shape[1]
    k, v = (part.float().repeat_interleave(group, 1).transpose(0, 1) for part in (keys, values))
    scores = query.float().transpose(0, 1) @ k.transpose(1, 2) * scale
    if causal:
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(len(keys) - len(query) + 1)
        scores = scores.masked_fill(later, float("-inf"))
    lse = scores.logsumexp(-1)
    # Over no tokens at all the weights are not a number, and the sum is 0.
    out = scores.softmax(-1).nan_to_num() @ v
    return out.transpose(0, 1).to(query.dtype), lse.transpose(0, 1) / torch.log(torch.tensor(2.0))


def _attend_rows(
    query: torch.Tensor,
    rows: list[tuple[torch.Tensor, torch.Tensor]],
    qo_indptr: torch.Tensor,
    call: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    starts = qo_indptr.tolist()
    if len(starts) != len(rows) + 1 or starts[-1] != len(query):
        raise KernelRefusal(f"flashinfer: queries of rows end at {starts}, there are {len(query)}")
    found = [
        attend(query[a:b], *row, call["sm_scale"], causal=call["causal"])
        for (a, b), row in zip(zip(starts, starts[1:], strict=False), rows, strict=True)
    ]
    outs, sums = zip(*found, strict=True)
    return torch.cat(outs), torch.cat(sums)


def _rows(
    indptr: torch.Tensor, indices: torch.Tensor, last: torch.Tensor, page: int
) -> list[torch.Tensor]:
    """The slots of each row."""
    if page != 1 or not bool((last == 1).all()):
        raise KernelRefusal(f"flashinfer: pages of {page} tokens are not computed here")
    ends = indptr.tolist()
    return [indices[a:b].long() for a, b in zip(ends, ends[1:], strict=False)]
