"""The experts of a layer in the weight store: a shard of any degree is a run of whole experts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.pages.weight_store import WeightStore


class ExpertShards:
    """w13 [E, 2 I, hidden] and w2 [E, hidden, I] of one layer, moved into the store.

    At degree d a worker computes E / d experts, those of its shard, for the rows of all workers;
    what they add up to is a sum over the instance (see JointExecutor). Nothing inside an expert is
    cut, so its kernels and scales are the same at every degree.

    `block`: the module that has the experts and the gate that chooses among them; `order`: of the
    experts in the store, by their numbers in the checkpoint. The gate's rows are in the same order,
    so what it chooses are numbers in the store. `chosen`: how often each expert of the store was,
    int64 [E], by the rows of this worker alone, counted where it is computed on a CPU.
    """

    linears = ()

    def __init__(
        self,
        block: Any,
        matrices: Sequence[int],
        chain: DegreeChain,
        index: int,
        store: WeightStore,
        *,
        order: Sequence[int] | None = None,
    ) -> None:
        experts: FusedMoE = block.experts
        assert experts.moe_tp_size == experts.moe_ep_size == 1
        self.experts, self._gate = experts, block.gate
        self._chain, self._index = chain, index
        self._order = None if order is None else torch.tensor(order)
        self.chosen = experts.chosen = np.zeros(experts.num_experts, dtype=np.int64)
        weights = (experts.w13_weight, experts.w2_weight)
        per_shard = experts.num_experts // chain.finest
        self._stored = [
            store.shards(matrix, (per_shard, *weight.shape[1:]), weight.dtype)
            for matrix, weight in zip(matrices, weights, strict=True)
        ]
        for stored, weight in zip(self._stored, weights, strict=True):
            stored.copy_(weight.data.view(stored.shape))
            weight.data = stored.flatten(0, 1)
        self.adopt_weights()
        # Made here, since SGLang would make them in the first step, which may be recorded.
        self._local_ids = {degree: self._number(degree) for degree in chain.degrees}
        self.switch(1)

    @staticmethod
    def sizes(block: Any, finest: int) -> tuple[int, int]:
        """Bytes of its matrices; ConfigError if they cannot be cut into `finest` shards."""
        experts: FusedMoE = block.experts
        if experts.num_fused_shared_experts:
            raise ConfigError(
                "the model's shared experts are fused with the others, which Amoeba does not "
                "serve; add --disable-shared-experts-fusion"
            )
        if experts.num_experts % finest:
            raise ConfigError(
                f"--tp-size {finest} does not divide the model's {experts.num_experts} experts; "
                "take a size that does"
            )
        return experts.w13_weight.nbytes, experts.w2_weight.nbytes

    @property
    def chosen_by_number(self) -> list[int]:
        """`chosen` in the order of the checkpoint."""
        if self._order is None:
            return self.chosen.tolist()
        return self.chosen[self._order.argsort().numpy()].tolist()

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1) from the checkpoint's order into the store's."""
        if self._order is not None:
            self._permute(self._order)

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""
        if self._order is not None:
            self._permute(self._order.argsort())

    def _permute(self, order: torch.Tensor) -> None:
        """Expert n becomes what expert order[n] was."""
        for weight in (self.experts.w13_weight, self.experts.w2_weight, self._gate.weight):
            weight.data.copy_(weight.data[order])

    def switch(self, degree: int) -> None:
        """Let the layer hold this worker's shard of `degree` and no other experts."""
        experts, dispatcher = self.experts, self.experts.dispatcher
        shard = self._chain.shard(degree, self._index % degree)
        local = experts.num_experts // degree
        w13, w2 = (stored.chunk(degree)[shard].flatten(0, 1) for stored in self._stored)
        experts.w13_weight.data, experts.w2_weight.data = w13, w2
        for holder in (experts, dispatcher):
            holder.moe_ep_size, holder.moe_ep_rank = degree, shard
            holder.num_local_experts = local
        experts._num_local_routed = dispatcher.num_local_routed_experts = local
        experts.moe_runner_config.num_local_experts = local
        dispatcher.local_expert_mapping = self._local_ids[degree]

    def _number(self, degree: int) -> torch.Tensor | None:
        """Of every expert, its number in this worker's shard or -1, int32 [E]; None if all are."""
        if degree == 1:
            return None
        local = self.experts.num_experts // degree
        ids = torch.arange(
            self.experts.num_experts, dtype=torch.int32, device=self.experts.w13_weight.device
        )
        ids -= self._chain.shard(degree, self._index % degree) * local
        return ids.masked_fill_((ids < 0) | (ids >= local), -1)
