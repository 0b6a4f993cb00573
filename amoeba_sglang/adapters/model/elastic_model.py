"""A loaded model whose elastic weights lie in pages and whose layers can be at any degree."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from sglang.srt.distributed.parallel_state import (
    GroupCoordinator,
    get_world_group,
    init_model_parallel_group,
)
from sglang.srt.runtime_context import get_server_args
from torch import nn

from amoeba_sglang.adapters.choice import backend_of
from amoeba_sglang.adapters.model.feed_forward import elastic_matrices
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.planes.device.base import Device
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.transport.base import TransportError


@dataclass(frozen=True)
class ElasticModel:
    """What SGLang's model got when it had been loaded: before the KV is sized, which counts what
    weights and groups take, and before a graph records where weights are.

    `coordinators`: by degree above 1, upstream's group of this worker's instance.
    """

    layers: list[LayerShards]
    store: WeightStore
    coordinators: dict[int, GroupCoordinator]

    @classmethod
    def adopt(cls, model: nn.Module, config: AmoebaConfig, device: Device) -> None:
        """Move the elastic weights of a model that was loaded at TP1 into pages of the process's
        memory; collective over all workers of the world."""
        chain, world = DegreeChain(config.degrees), get_world_group()
        index, stack = world.rank_in_group % config.group_size, list(model.model.layers)
        memory = device.memory(config.page_size_kib << 10)
        matrices = elastic_matrices(stack, chain.finest)
        store = WeightStore(memory, WeightPages(chain, memory.page_size, matrices), index)
        coordinators = make_coordinators(config, chain, device)
        loads = config.expert_loads
        orders = [None] * len(stack) if loads is None else loads.orders(chain)
        layers = []
        for number, (layer, order) in enumerate(zip(stack, orders, strict=True)):
            layers.append(
                LayerShards(
                    layer, number, chain, index, groups=coordinators, store=store, order=order
                )
            )
            # Or a whole second copy of the weights would be held until the last has moved.
            device.return_freed_memory()
        model.elastic = cls(layers, store, coordinators)


def adopt_if_ours(model: nn.Module) -> None:
    """For the hook of a platform, which SGLang's own launcher runs on, too: only workers that share
    one torch.distributed world have groups to merge in."""
    server_args = get_server_args()
    if getattr(server_args, "_one_world", False):
        config: AmoebaConfig = server_args._amoeba
        backend_of(server_args.device, config).adopt(model, config)


def make_coordinators(
    config: AmoebaConfig, chain: DegreeChain, device: Device
) -> dict[int, GroupCoordinator]:
    """Upstream's groups of every degree above 1, by degree, ready for a step; collective over the
    world. TransportError if they cannot be made."""
    world = get_world_group()
    # Or upstream's choice; see the backend's collectives.
    own = False if config.shares_gpu else None
    found = {}
    for degree in chain.degrees[1:]:
        try:
            with device.weigh(f"communicators of degree {degree}"):
                found[degree] = init_model_parallel_group(
                    blocks_of(config, degree),
                    world.local_rank,
                    dist.get_backend(world.device_group),
                    group_name=f"amoeba_degree_{degree}",
                    use_pynccl=own,
                    use_custom_allreduce=own,
                )
                if not config.shares_gpu:
                    device.warm_up(found[degree])
        except RuntimeError as error:
            raise TransportError(
                f"the group of degree {degree} of worker rank {world.rank_in_group} cannot start: "
                f"{str(error).strip().splitlines()[0]}; NCCL_DEBUG=INFO says more"
            ) from error
    return found


def blocks_of(config: AmoebaConfig, degree: int) -> list[list[int]]:
    """The ranks of every instance when all are at this degree."""
    return [list(range(first, first + degree)) for first in range(0, config.workers, degree)]
