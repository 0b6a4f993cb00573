"""Point one decoder layer at its tensor-parallel shard of a degree, after loading at TP1.

A generic walk over module classes, not over model names: any layer made of `QKVParallelLinear`,
`RadixAttention`, `MergedColumnParallelLinear` and `RowParallelLinear` or `FusedMoE` is served. No
weight is resident twice: attention weights are full and viewed, those of MLPs and experts lie in
the weight store.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.linear import QKVParallelLinear, RowParallelLinear
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.layers.radix_attention import RadixAttention
from torch import nn

from amoeba_sglang.adapters.model.feed_forward import shard_feed_forward
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.pages.weight_store import WeightStore


class RowRanges(UnquantizedLinearMethod):
    """The q, k and v rows of a shard, which lie apart in the full matrix: one product each.

    Grouping all rows by KV head would need one product, but also a permutation of its result, at
    every degree; this costs nothing at degree 1.
    """

    def __init__(self, weights: list[torch.Tensor], biases: list[torch.Tensor | None]) -> None:
        self._parts = list(zip(weights, biases, strict=True))

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[tokens, hidden] -> [tokens, (q + k + v heads of the shard) * D]."""
        return torch.cat([F.linear(x, rows, part) for rows, part in self._parts], dim=-1)


class LayerShards:
    """One decoder layer of a model that was built at TP1, switchable between degrees.

    `groups`: degree -> upstream GroupCoordinator of this worker's instance at that degree.
    `index`: the worker's index in its group, which fixes its shard at every degree. `order`: of
    the layer's experts, if it has them; see ExpertShards.
    """

    def __init__(
        self,
        layer: nn.Module,
        number: int,
        chain: DegreeChain,
        index: int,
        *,
        groups: dict[int, Any],
        store: WeightStore,
        order: Sequence[int] | None = None,
    ) -> None:
        self.chain, self.index, self.groups = chain, index, groups
        self.degree = 1
        self.attention = _only(layer, lambda m: hasattr(m, "qkv_proj") and hasattr(m, "o_proj"))
        self.radix: RadixAttention = _only(layer, lambda m: isinstance(m, RadixAttention))
        self.qkv: QKVParallelLinear = _only(layer, lambda m: isinstance(m, QKVParallelLinear))
        self.o: RowParallelLinear = self.attention.o_proj
        self.heads, self.kv_heads = self.attention.num_heads, self.attention.num_kv_heads
        self.head_dim = self.radix.head_dim
        for name, count in (("attention heads", self.heads), ("KV heads", self.kv_heads)):
            if count % chain.finest:
                raise ConfigError(
                    f"--tp-size {chain.finest} does not divide the model's {count} {name}"
                )
        matrices = store.pages.of_layer(number)
        self.feed_forward = shard_feed_forward(layer, matrices, chain, index, store, order=order)
        sharded = [linear for shards in self.feed_forward for linear in shards.linears]
        self.linears = (self.qkv, self.o, *sharded)
        self._full_o = self.o.weight.data
        self._qkv_methods = {1: self.qkv.quant_method}
        for degree in chain.degrees[1:]:
            self._qkv_methods[degree] = self._shard_rows(degree)
        self.home_groups = [linear.tp_group for linear in self.linears]
        self.attention_sums = self.o.reduce_results

    def _shard_rows(self, degree: int) -> RowRanges:
        shard = self.chain.shard(degree, self.index % degree)
        sizes = [self.heads * self.head_dim] + 2 * [self.kv_heads * self.head_dim]

        def cut(full: torch.Tensor | None) -> list[torch.Tensor | None]:
            if full is None:
                return [None] * len(sizes)
            return [part.chunk(degree)[shard] for part in full.split(sizes)]

        bias = self.qkv.bias
        return RowRanges(cut(self.qkv.weight.data), cut(None if bias is None else bias.data))

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1)."""
        assert self.degree == 1
        for shards in self.feed_forward:
            shards.adopt_weights()

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        assert self.degree == 1
        for shards in self.feed_forward:
            shards.restore_upstream_order()

    def switch(self, degree: int) -> None:
        """Point every module of the layer at this worker's shard of `degree`."""
        shard = self.chain.shard(degree, self.index % degree)
        self.qkv.quant_method = self._qkv_methods[degree]
        self.o.weight.data = self._full_o.chunk(degree, dim=1)[shard]
        for shards in self.feed_forward:
            shards.switch(degree)
        for linear, home_group in zip(self.linears, self.home_groups, strict=True):
            linear.tp_group = home_group if degree == 1 else self.groups[degree]
        # A layer built at TP1 owes no sum after attention (layer_boundary/factories.py): without
        # this the output of degree > 1 is silently wrong. What follows sums by the context.
        self.o.reduce_results = degree > 1 or self.attention_sums
        self.attention.num_heads = self.radix.tp_q_head_num = self.heads // degree
        kv_heads = self.kv_heads // degree
        self.attention.num_kv_heads = kv_heads
        self.radix.tp_k_head_num = self.radix.tp_v_head_num = kv_heads
        self.attention.q_size = self.heads // degree * self.head_dim
        self.attention.kv_size = kv_heads * self.head_dim
        self.degree = degree


def _only(layer: nn.Module, wanted: Any) -> Any:
    found = [module for module in layer.modules() if wanted(module)]
    if len(found) != 1:
        raise ConfigError(
            f"decoder layer {type(layer).__name__} has {len(found)} modules of a kind that "
            "Amoeba needs exactly once; models of this shape are not served"
        )
    return found[0]
