"""The MLP of a layer in the weight store: every shard of every degree lies in one piece."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from torch import nn

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.layout.weight_pages import layer_matrices
from amoeba_sglang.model.weight_store import WeightStore


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


def elastic_matrices(layers: list[nn.Module], finest: int) -> tuple[int, ...]:
    """Bytes of the matrices of each decoder layer in turn, as WeightPages takes them.

    ConfigError if an MLP cannot be cut into `finest` shards.
    """
    sizes = []
    for layer in layers:
        mlp = find_mlp(layer)
        intermediate = mlp.down_proj.weight.shape[1]
        if intermediate % finest:
            raise ConfigError(
                f"--tp-size {finest} does not divide the model's {intermediate} MLP columns"
            )
        sizes += [mlp.gate_up_proj.weight.nbytes, mlp.down_proj.weight.nbytes]
    return tuple(sizes)


def find_mlp(layer: nn.Module) -> Any:
    """The one module of a decoder layer that has gate_up_proj and down_proj; else ConfigError."""
    found = [m for m in layer.modules() if hasattr(m, "gate_up_proj") and hasattr(m, "down_proj")]
    if len(found) != 1:
        raise ConfigError(
            f"decoder layer {type(layer).__name__} has {len(found)} MLPs of gate_up_proj and "
            "down_proj; Amoeba serves models with exactly one"
        )
    return found[0]


class MLPShards:
    """gate_up and down of one layer, moved into the store and switchable between degrees.

    gate_up is kept with its rows in the order (finest shard, gate | up), down transposed, so a
    shard of any degree is a range of rows of both. The product with the transposed matrix costs
    3-7 % more in bf16 at 8 rows than with upstream's and 20 % less in fp32; blocks of columns, each
    in upstream's orientation, cost 16-35 % more in bf16 (bench/mlp_layout.py).
    """

    def __init__(
        self, layer: nn.Module, number: int, chain: DegreeChain, index: int, store: WeightStore
    ) -> None:
        mlp = find_mlp(layer)
        self.gate_up: MergedColumnParallelLinear = mlp.gate_up_proj
        self.down: RowParallelLinear = mlp.down_proj
        self._chain, self._index = chain, index
        hidden, intermediate = self.down.weight.shape
        if self.gate_up.bias is not None:
            raise ConfigError("models with a bias in gate_up_proj are not served")
        dtype = self.down.weight.dtype
        gate_up, down = layer_matrices(number)
        self._gate_up = store.tensor(gate_up, (2 * intermediate, hidden), dtype)
        self._down = store.tensor(down, (intermediate, hidden), dtype)
        self._gate_up.copy_(self.gate_up.weight.data)
        self._down_as_upstream().copy_(self.down.weight.data)
        mlp.act_fn = ShardedActivation(mlp.act_fn, 2 * intermediate // chain.finest)
        self.adopt_weights()

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1) from upstream's order into the store's."""
        by_shard = self._gate_up.view(2, self._chain.finest, -1, self._gate_up.shape[1])
        self._gate_up.copy_(by_shard.transpose(0, 1).reshape(self._gate_up.shape))
        self._down.copy_(self._down_as_upstream().t().contiguous())
        self.switch(1)

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        by_shard = self._gate_up.view(self._chain.finest, 2, -1, self._gate_up.shape[1])
        self._gate_up.copy_(by_shard.transpose(0, 1).reshape(self._gate_up.shape))
        upstream = self._down_as_upstream()
        upstream.copy_(self._down.t().contiguous())
        self.down.weight.data = upstream

    def switch(self, degree: int) -> None:
        """Point both linears at this worker's shard of `degree`."""
        shard = self._chain.shard(degree, self._index % degree)
        self.gate_up.weight.data = self._gate_up.chunk(degree)[shard]
        self.down.weight.data = self._down.chunk(degree)[shard].t()

    def _down_as_upstream(self) -> torch.Tensor:
        """The bytes of down as the [out, in] matrix that upstream knows."""
        return self._down.view(self._down.shape[1], self._down.shape[0])
