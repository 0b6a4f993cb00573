"""Point one decoder layer at its tensor-parallel shard of a degree, after loading at TP1.

A generic walk over module classes, not over model names: any layer made of `QKVParallelLinear`,
`RadixAttention`, `MergedColumnParallelLinear` and `RowParallelLinear` is served. Full weights stay
resident; a degree is a set of views (o, gate_up, down) and one cached copy (qkv).
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from sglang.srt.layers.radix_attention import RadixAttention
from torch import nn

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.layout.slots import DegreeChain


class ShardedActivation(nn.Module):
    """`silu(gate) * up` for gate_up columns in the order (finest shard, gate | up)."""

    def __init__(self, activation: nn.Module, shard_width: int) -> None:
        super().__init__()
        self.activation = activation
        self.shard_width = shard_width

    def forward(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[tokens, 2 I / d] -> [tokens, I / d] at any degree d."""
        out = self.activation(gate_up.reshape(-1, self.shard_width))
        return out.view(gate_up.shape[0], -1)


class LayerShards:
    """One decoder layer of a model that was built at TP1, switchable between degrees.

    `groups`: degree -> upstream GroupCoordinator of this worker's instance at that degree.
    `index`: the worker's index in its group, which fixes its shard at every degree.
    """

    def __init__(self, layer: nn.Module, chain: DegreeChain, index: int, groups: dict[int, Any]):
        self.chain, self.index, self.groups = chain, index, groups
        self.degree = 1
        self.attention = _only(layer, lambda m: hasattr(m, "qkv_proj") and hasattr(m, "o_proj"))
        self.radix: RadixAttention = _only(layer, lambda m: isinstance(m, RadixAttention))
        self.qkv: QKVParallelLinear = _only(layer, lambda m: isinstance(m, QKVParallelLinear))
        self.o: RowParallelLinear = self.attention.o_proj
        self.mlp = _only(layer, lambda m: hasattr(m, "gate_up_proj") and hasattr(m, "down_proj"))
        self.gate_up: MergedColumnParallelLinear = self.mlp.gate_up_proj
        self.down: RowParallelLinear = self.mlp.down_proj
        self.linears = (self.qkv, self.o, self.gate_up, self.down)
        self.heads, self.kv_heads = self.attention.num_heads, self.attention.num_kv_heads
        self.head_dim = self.radix.head_dim
        self.intermediate = self.down.weight.shape[1]
        self._check()
        self.full = [linear.weight.data for linear in self.linears]
        self.biases = [None if m.bias is None else m.bias.data for m in self.linears]
        self.home_groups = [linear.tp_group for linear in self.linears]
        self.attention_sums = self.o.reduce_results
        self.mlp.act_fn = ShardedActivation(
            self.mlp.act_fn, 2 * self.intermediate // self.chain.finest
        )
        self.adopt_weights()

    def _check(self) -> None:
        finest = self.chain.finest
        for name, count in (
            ("attention heads", self.heads),
            ("KV heads", self.kv_heads),
            ("MLP columns", self.intermediate),
        ):
            if count % finest:
                raise ConfigError(f"--tp-size {finest} does not divide the model's {count} {name}")
        if self.gate_up.bias is not None:
            raise ConfigError("models with a bias in gate_up_proj are not served")

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1): order gate_up by shard, cut the qkv copies."""
        assert self.degree == 1
        gate_up = self.full[2]
        shards = gate_up.view(2, self.chain.finest, -1, gate_up.shape[1])
        gate_up.copy_(shards.transpose(0, 1).reshape(gate_up.shape))
        self.qkv_copies = {
            d: (self._cut_qkv(self.full[0], d), self._cut_qkv(self.biases[0], d))
            for d in self.chain.degrees
            if d > 1
        }

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        assert self.degree == 1
        gate_up = self.full[2]
        shards = gate_up.view(self.chain.finest, 2, -1, gate_up.shape[1])
        gate_up.copy_(shards.transpose(0, 1).reshape(gate_up.shape))

    def _cut_qkv(self, full: torch.Tensor | None, degree: int) -> torch.Tensor | None:
        if full is None:
            return None
        shard = self.chain.shard(degree, self.index % degree)
        sizes = [self.heads * self.head_dim] + 2 * [self.kv_heads * self.head_dim]
        return torch.cat([part.chunk(degree)[shard] for part in full.split(sizes)])

    def switch(self, degree: int) -> None:
        """Point every module of the layer at this worker's shard of `degree`."""
        shard = self.chain.shard(degree, self.index % degree)
        if degree == 1:
            weights, qkv_bias = self.full, self.biases[0]
        else:
            qkv, qkv_bias = self.qkv_copies[degree]
            weights = [
                qkv,
                self.full[1].chunk(degree, dim=1)[shard],
                self.full[2].chunk(degree)[shard],
                self.full[3].chunk(degree, dim=1)[shard],
            ]
        for linear, weight, home_group in zip(self.linears, weights, self.home_groups, strict=True):
            linear.weight.data = weight
            linear.tp_group = home_group if degree == 1 else self.groups[degree]
        if qkv_bias is not None:
            self.qkv.bias.data = qkv_bias
        # A layer built at TP1 owes no sum after attention (layer_boundary/factories.py): without
        # this the output of degree > 1 is silently wrong. The MLP's sum follows the context.
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
