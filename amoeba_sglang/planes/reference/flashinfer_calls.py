"""FlashInfer's wrappers of paged and ragged attention, as upstream plans and calls them, by torch.

Every call is bound to the signature of the installed library. A plan holds for the heads that it
was made for: with others the kernels compute something else and say nothing, so they are refused.
"""

from __future__ import annotations

from typing import Any

import torch

from amoeba_sglang.planes.reference.calls import (
    HALF_TYPES,
    KernelRefusal,
    attend,
    bind,
    spans_of,
)
from amoeba_sglang.planes.reference.graphs import whole

_GRAPH_BUFFERS = (
    "paged_kv_indptr_buffer",
    "paged_kv_indices_buffer",
    "paged_kv_last_page_len_buffer",
)


class Wrapper:
    """What all wrappers have. `real`: the library's class."""

    real: type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        call = bind(self.real.__init__, (self, *args), kwargs)
        self._plan: dict[str, Any] | None = None
        self.is_cuda_graph_enabled = call["use_cuda_graph"]
        if self.is_cuda_graph_enabled:
            self._most = [len(call[name]) for name in _GRAPH_BUFFERS]

    def begin_forward(self, *args: Any, **kwargs: Any) -> None:
        """`plan`, by its old name."""
        plan = bind(self.real.plan, (self, *args), kwargs)
        for name, vector in plan.items():
            known = isinstance(vector, torch.Tensor)
            if known and name.endswith(("indptr", "indices", "last_page_len")):
                if vector.dtype != torch.int32:
                    raise KernelRefusal(f"flashinfer: {name} of {vector.dtype}, only int32")
        if self.is_cuda_graph_enabled:
            given = [len(plan[name]) for name in ("indptr", "indices", "last_page_len")]
            if given[::2] != self._most[::2] or given[1] > self._most[1]:
                raise KernelRefusal(f"flashinfer: {given} in buffers of a graph of {self._most}")
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
        if query.dtype != keys.dtype or query.dtype not in HALF_TYPES:
            raise KernelRefusal(f"flashinfer: {query.dtype} over {keys.dtype}, one of {HALF_TYPES}")
        return plan


class PagedDecode(Wrapper):
    """`BatchDecodeWithPagedKVCacheWrapper` over pages of a token."""

    @whole
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
        parts = [(keys[at], values[at]) for at in spans_of(plan["kv_indptr"])]
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


def _attend_rows(
    query: torch.Tensor,
    rows: list[tuple[torch.Tensor, torch.Tensor]],
    qo_indptr: torch.Tensor,
    call: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    spans = spans_of(qo_indptr)
    if len(spans) != len(rows) or spans[-1].stop != len(query):
        raise KernelRefusal(f"flashinfer: queries {spans} of {len(rows)} rows, not {len(query)}")
    found = [
        attend(query[span], *row, call["sm_scale"], causal=call["causal"])
        for span, row in zip(spans, rows, strict=True)
    ]
    outs, sums = zip(*found, strict=True)
    return torch.cat(outs), torch.cat(sums)


def _rows(
    indptr: torch.Tensor, indices: torch.Tensor, last: torch.Tensor, page: int
) -> list[torch.Tensor]:
    """The slots of each row."""
    if page != 1 or not bool((last == 1).all()):
        raise KernelRefusal(f"flashinfer: pages of {page} tokens are not computed here")
    return [indices[span].long() for span in spans_of(indptr)]
