"""The MLP of a layer in the weight store: every shard of every degree lies in one piece."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from torch import nn

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.layout.slots import DegreeChain
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


class ColumnBlocks(UnquantizedLinearMethod):
    """A product with a matrix that is stored as blocks of columns, `layer.weight` [n, out, in / n].

    One product a block, added up. A transposed matrix would need one product only, but bf16 kernels
    are slower on it than on n blocks in their own orientation.
    """

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[tokens, in] -> [tokens, out]."""
        first, *others = layer.weight.unbind()
        width = first.shape[1]
        out = F.linear(x[:, :width], first, bias)
        for number, block in enumerate(others, 1):
            columns = x[:, number * width : (number + 1) * width]
            out = torch.addmm(out, columns, block.t())
        return out


def elastic_matrices(layers: list[nn.Module]) -> tuple[int, ...]:
    """Bytes of gate_up and down of each decoder layer in turn, as WeightPages takes them."""
    sizes = []
    for layer in layers:
        mlp = find_mlp(layer)
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

    gate_up is kept in the order (finest shard, gate | up) of rows, down as one block of columns a
    finest shard.
    """

    def __init__(
        self, layer: nn.Module, number: int, chain: DegreeChain, index: int, store: WeightStore
    ) -> None:
        mlp = find_mlp(layer)
        self.gate_up: MergedColumnParallelLinear = mlp.gate_up_proj
        self.down: RowParallelLinear = mlp.down_proj
        self._chain, self._index = chain, index
        hidden, intermediate = self.down.weight.shape
        if intermediate % chain.finest:
            raise ConfigError(
                f"--tp-size {chain.finest} does not divide the model's {intermediate} MLP columns"
            )
        if self.gate_up.bias is not None:
            raise ConfigError("models with a bias in gate_up_proj are not served")
        dtype = self.down.weight.dtype
        self._rows = store.tensor(2 * number, (2 * intermediate, hidden), dtype)
        self._blocks = store.tensor(
            2 * number + 1, (chain.finest, hidden, intermediate // chain.finest), dtype
        )
        self._rows.copy_(self.gate_up.weight.data)
        self._as_upstream(self._blocks).copy_(self.down.weight.data)
        mlp.act_fn = ShardedActivation(mlp.act_fn, 2 * intermediate // chain.finest)
        self._upstream_method = self.down.quant_method
        self.adopt_weights()

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1) from upstream's order into the store's."""
        finest = self._chain.finest
        by_shard = self._rows.view(2, finest, -1, self._rows.shape[1]).transpose(0, 1)
        self._rows.copy_(by_shard.reshape(self._rows.shape))
        full = self._as_upstream(self._blocks)
        self._blocks.copy_(torch.stack(full.chunk(finest, dim=1)))
        self.down.quant_method = ColumnBlocks()
        self.switch(1)

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        finest = self._chain.finest
        by_shard = self._rows.view(finest, 2, -1, self._rows.shape[1]).transpose(0, 1)
        self._rows.copy_(by_shard.reshape(self._rows.shape))
        full = self._as_upstream(self._blocks)
        full.copy_(torch.cat(self._blocks.unbind(), dim=1))
        self.down.weight.data = full
        self.down.quant_method = self._upstream_method

    def switch(self, degree: int) -> None:
        """Point both linears at this worker's shard of `degree`."""
        shard = self._chain.shard(degree, self._index % degree)
        self.gate_up.weight.data = self._rows.chunk(degree)[shard]
        self.down.weight.data = self._blocks.chunk(degree)[shard]

    @staticmethod
    def _as_upstream(blocks: torch.Tensor) -> torch.Tensor:
        """The bytes of `blocks` as the [out, in] matrix that upstream knows."""
        count, out, width = blocks.shape
        return blocks.view(out, count * width)
