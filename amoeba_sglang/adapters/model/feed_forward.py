"""What a layer computes after its attention: an MLP, experts, or experts and a shared one."""

from collections.abc import Sequence
from typing import Any, Protocol

from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
from torch import nn

from amoeba_sglang.adapters.model.expert_shards import ExpertShards
from amoeba_sglang.adapters.model.mlp_shards import MLPShards
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.pages.weight_store import WeightStore


class Shards(Protocol):
    """A module whose two matrices lie in the store. `linears`: those that sum over a group."""

    linears: Sequence[Any]

    def adopt_weights(self) -> None:
        """Take freshly loaded weights (degree 1) from upstream's order into the store's."""

    def restore_upstream_order(self) -> None:
        """Inverse of `adopt_weights`, for upstream code that loads weights by name."""

    def switch(self, degree: int) -> None:
        """Point the module at this worker's shard of `degree`."""


def elastic_matrices(layers: Sequence[nn.Module], finest: int) -> tuple[tuple[int, ...], ...]:
    """Bytes of the elastic matrices of each decoder layer, as WeightPages takes them.

    ConfigError if one cannot be cut into `finest` shards.
    """
    return tuple(
        tuple(
            size for module in _find_modules(layer) for size in _kind(module).sizes(module, finest)
        )
        for layer in layers
    )


def shard_feed_forward(
    layer: nn.Module,
    matrices: range,
    chain: DegreeChain,
    index: int,
    store: WeightStore,
    *,
    order: Sequence[int] | None = None,
) -> tuple[Shards, ...]:
    """Move the elastic matrices of a decoder layer, whose numbers these are, into the store.
    `order`: see ExpertShards."""
    modules = _find_modules(layer)
    assert len(matrices) == 2 * len(modules), (matrices, modules)
    found: list[Shards] = []
    for number, module in enumerate(modules):
        two = matrices[2 * number : 2 * number + 2]
        if _kind(module) is ExpertShards:
            found.append(ExpertShards(module, two, chain, index, store, order=order))
        else:
            found.append(MLPShards(module, two, chain, index, store))
    return tuple(found)


def _kind(module: nn.Module) -> type[ExpertShards] | type[MLPShards]:
    return ExpertShards if _has_experts(module) else MLPShards


def _has_experts(module: nn.Module) -> bool:
    return isinstance(getattr(module, "experts", None), FusedMoE) and hasattr(module, "gate")


def _find_modules(layer: nn.Module) -> list[nn.Module]:
    """The block of a layer that has its experts, if one does, then its MLP or shared expert."""
    modules = list(layer.modules())
    experts = [m for m in modules if _has_experts(m)]
    mlps = [m for m in modules if hasattr(m, "gate_up_proj") and hasattr(m, "down_proj")]
    if len(experts) > 1 or len(mlps) > 1 or not experts + mlps:
        raise ConfigError(
            f"decoder layer {type(layer).__name__} has {len(mlps)} MLPs of gate_up_proj and "
            f"down_proj and {len(experts)} mixtures of experts; Amoeba serves models with one of "
            "them or one of each"
        )
    return experts + mlps
