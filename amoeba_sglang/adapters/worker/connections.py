"""What a worker shares with the others: groups of every degree, and movers between their pools."""

from __future__ import annotations

import datetime
import logging
from dataclasses import astuple, dataclass

import numpy as np
import torch.distributed as dist
from sglang.srt.distributed.parallel_state import get_world_group

from amoeba_sglang.adapters.model.elastic_model import blocks_of
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.planes.device.base import Blocks, Device
from amoeba_sglang.planes.kv.collective_mover import CollectiveKVMover
from amoeba_sglang.planes.kv.mover import KVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.memory.base import AddressRange, MemoryHandle
from amoeba_sglang.planes.pages.page_exchange import NoExchange, PageExchange, describe_waste
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.transport import TransportGroup, create_group
from amoeba_sglang.planes.transport.gather import gather_values
from amoeba_sglang.planes.transport.segment import SharedSegment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Groups:
    """By degree above 1, of this worker's block: the transport of its joint steps, and the process
    group and transport of what moves meanwhile on another thread."""

    transports: dict[int, TransportGroup]
    moving: dict[int, tuple[dist.ProcessGroup, TransportGroup]]

    @classmethod
    def create(cls, config: AmoebaConfig, chain: DegreeChain, progress: np.ndarray) -> Groups:
        """Collective over all workers of the world. `progress`: what each has done, shared."""
        transports, moving = {}, {}
        limits = config.watchdog_timeout_s, config.freeze_timeout_s, progress
        timeout = datetime.timedelta(seconds=config.watchdog_timeout_s)
        for degree in chain.degrees[1:]:
            blocks = blocks_of(config, degree)
            step, _ = dist.new_subgroups_by_enumeration(blocks, timeout, "gloo")
            transports[degree] = create_group(config.transport, step, *limits)
            mine, _ = dist.new_subgroups_by_enumeration(blocks, timeout, "gloo")
            moving[degree] = mine, create_group(config.transport, mine, *limits)
            moving[degree][1].phase = f"a move of layers in a block of {degree} workers"
        return cls(transports, moving)


def share_words(config: AmoebaConfig) -> np.ndarray:
    """A zeroed int64 for every worker of the world, which all see; without shared memory nobody
    sees the others'. Collective."""
    if config.transport == "collective":
        return np.zeros(config.workers, dtype=np.int64)
    segment = SharedSegment.create(get_world_group().cpu_group, 8 * config.workers)
    return np.frombuffer(segment.memory, dtype=np.int64)


@dataclass(frozen=True)
class Movers:
    """`kv`: by block width, moves KV over the pools of the block. `pages`: weights and pages, which
    stay where no peer's can be read."""

    kv: dict[int, KVMover]
    pages: PageExchange | NoExchange

    @classmethod
    def create(
        cls,
        config: AmoebaConfig,
        rank: int,
        pool: ElasticKVPool,
        store: WeightStore,
        groups: Groups,
        *,
        device: Device,
    ) -> Movers:
        """Collective over all workers of the world."""
        chain = store.pages.chain
        staging = config.staging_mib << 20
        if config.transport == "collective":
            own = UnitBuffers(pool.blocks, chain.finest)
            kv: dict[int, KVMover] = {
                width: CollectiveKVMover(own, group, staging)
                for width, (group, _) in groups.moving.items()
            }
            return cls(kv, NoExchange())
        index = rank % config.group_size
        peers, blocks = _open_peers(config, rank, pool)
        waste = describe_waste(store.pages, pool.layer_num, pool.memory.smallest_page)
        if waste is not None and rank == 0:
            logger.warning(waste)
        kv = {}
        for width, (_, group) in groups.moving.items():
            first = index // width * width
            kv[width] = device.make_mover(
                blocks[first : first + width], group, finest=chain.finest, staging_bytes=staging
            )
            kv[width].warm_up()
        return cls(kv, PageExchange(pool.ranges, store, peers))


def _open_peers(
    config: AmoebaConfig, rank: int, pool: ElasticKVPool
) -> tuple[dict[int, AddressRange], list[Blocks]]:
    """The pages of the other workers of this group, and the pools of all, by index. Writable: the
    units of two pools change places."""
    memory, index = pool.memory, rank % config.group_size
    offers = gather_values(get_world_group().cpu_group, astuple(memory.export()))
    first = rank - index
    handles = {i: MemoryHandle(*offers[first + i]) for i in range(config.group_size) if i != index}
    peers = {i: memory.open_peer(handle, writable=True) for i, handle in handles.items()}
    blocks = [
        pool.blocks if i == index else pool.peer_blocks(peers[i], handles[i])
        for i in range(config.group_size)
    ]
    return peers, blocks
