"""An MLP in the weight store: a shard of any degree is a range of its rows."""

from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from torch import nn

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.pages.weight_store import WeightStore


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


class MLPShards:
    """gate_up and down of an MLP, moved into the store and switchable between degrees.

    gate_up is kept with its rows in the order (finest shard, gate | up), down transposed, so a
    shard of any degree is a range of rows of both. The product with the transposed matrix takes 0
    to 31 % longer than with upstream's in fp32, 4 to 27 % in bf16, less the more rows there are (1
    to 256); blocks of columns, each in upstream's orientation, take 3 to 84 % longer
    (bench/mlp_layout.py).
    """

    def __init__(
        self,
        mlp: Any,
        matrices: Sequence[int],
        chain: DegreeChain,
        index: int,
        store: WeightStore,
    ) -> None:
        self.gate_up: MergedColumnParallelLinear = mlp.gate_up_proj
        self.down: RowParallelLinear = mlp.down_proj
        self.linears = (self.gate_up, self.down)
        self._chain, self._index = chain, index
        hidden, intermediate = self.down.weight.shape
        if self.gate_up.bias is not None:
            raise ConfigError("models with a bias in gate_up_proj are not served")
        dtype, width = self.down.weight.dtype, intermediate // chain.finest
        gate_up, down = matrices
        self._gate_up = store.shards(gate_up, (2 * width, hidden), dtype)
        self._down = store.shards(down, (width, hidden), dtype)
        mlp.act_fn = ShardedActivation(mlp.act_fn, 2 * width)
        self._take(self.gate_up.weight.data, self.down.weight.data)

    @staticmethod
    def sizes(mlp: Any, finest: int) -> tuple[int, int]:
        """Bytes of its matrices; ConfigError if they cannot be cut into `finest` shards."""
        intermediate = mlp.down_proj.weight.shape[1]
        if intermediate % finest:
            raise ConfigError(
                f"--tp-size {finest} does not divide the model's {intermediate} MLP columns; "
                "take a size that does"
            )
        return mlp.gate_up_proj.weight.nbytes, mlp.down_proj.weight.nbytes

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1) from upstream's order into the store's."""
        # They may lie in the same bytes.
        self._take(self.gate_up.weight.data.clone(), self.down.weight.data.clone())

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        finest, hidden = self._chain.finest, self._down.shape[-1]
        gate_up = self._gate_up.view(finest, 2, -1, hidden).transpose(0, 1).reshape(-1, hidden)
        down = self._down.reshape(-1, hidden).t().contiguous()
        self.gate_up.weight.data = self._gate_up.view(gate_up.shape).copy_(gate_up)
        self.down.weight.data = self._down.view(down.shape).copy_(down)

    def switch(self, degree: int) -> None:
        """Point both linears at this worker's shard of `degree`."""
        shard = self._chain.shard(degree, self._index % degree)
        self.gate_up.weight.data = self._gate_up.chunk(degree)[shard].flatten(0, 1)
        self.down.weight.data = self._down.chunk(degree)[shard].flatten(0, 1).t()

    def _take(self, gate_up: torch.Tensor, down: torch.Tensor) -> None:
        """Fill the store from [2 I, hidden] and [hidden, I]."""
        finest, hidden = self._chain.finest, self._down.shape[-1]
        by_shard = gate_up.view(2, finest, -1, hidden).transpose(0, 1)
        self._gate_up.view(by_shard.shape).copy_(by_shard)
        self._down.copy_(down.t().contiguous().view(self._down.shape))
        self.switch(1)
