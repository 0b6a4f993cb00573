"""The elastic state of one worker: groups of every degree, its instance, its peers' pools."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from sglang.srt.distributed.parallel_state import get_world_group, init_model_parallel_group

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.kv.mover import CollectiveKVMover, KVMover, PeerKVMover
from amoeba_sglang.kv.units import UnitBuffers
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.layout.weight_pages import WeightPages
from amoeba_sglang.memory.base import AddressRange
from amoeba_sglang.memory.mapping import return_freed_memory
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.model.joint_step import JointExecutor
from amoeba_sglang.model.kv_allocator import ElasticAllocator
from amoeba_sglang.model.kv_pool import ElasticKVPool
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.model.mirror import RowLedger
from amoeba_sglang.model.mlp_shards import elastic_matrices
from amoeba_sglang.model.step_record import Row, StepRecord
from amoeba_sglang.model.weight_store import WeightStore
from amoeba_sglang.platform.attention import CpuAttention
from amoeba_sglang.transport import Bell, TransportGroup, create_group
from amoeba_sglang.worker.leases import Demand, Leases
from amoeba_sglang.worker.lock_step import LockStep
from amoeba_sglang.worker.page_exchange import PageExchange, describe_waste
from amoeba_sglang.worker.slots import live_slots
from amoeba_sglang.worker.transformation import Transformation, TransformReport

logger = logging.getLogger(__name__)


class ElasticRuntime:
    """Made once, after upstream's scheduler; collective over all workers of the world."""

    def __init__(self, scheduler: Any, config: AmoebaConfig, rank: int) -> None:
        self.config, self.rank = config, rank
        self.chain = DegreeChain(config.degrees)
        self.index = rank % config.group_size
        self.allocator: ElasticAllocator = scheduler.token_to_kv_pool_allocator
        self.requests = scheduler.req_to_token_pool
        self.tree_cache = scheduler.tree_cache
        runner = scheduler.tp_worker.model_runner
        self.pool: ElasticKVPool = runner.token_to_kv_pool
        assert isinstance(self.pool, ElasticKVPool)
        self.groups: dict[int, Any] = {}
        self.transports: dict[int, TransportGroup] = {}
        self._make_groups()
        # Joint slots that an instance has beyond its workers' own pools, by degree.
        self.grown = dict.fromkeys(self.chain.degrees, 0)
        model = runner.model
        stack = list(model.model.layers)
        store = WeightStore(
            self.pool.memory,
            WeightPages(
                self.chain, self.pool.memory.page_size, elastic_matrices(stack, self.chain.finest)
            ),
            self.index,
        )
        layers = [
            LayerShards(layer, number, self.chain, self.index, self.groups, store)
            for number, layer in enumerate(stack)
        ]
        return_freed_memory()
        self.executor = JointExecutor(
            model,
            layers,
            self.chain,
            self.allocator.size,
            self.grown,
            self.groups,
            self.transports,
            CpuAttention(runner),
        )
        self.pages: PageExchange | None = None
        self.movers = self._make_movers(store)
        if self.pages is not None:
            self.grown.update({d: self.pages.grown_slots(d) for d in self.chain.degrees})
        self.leases: Leases | None = None
        self.bell = Bell(config.run_id, rank)
        self.ledger = RowLedger()
        self.lock_step: LockStep | None = None

    def _make_groups(self) -> None:
        world = self.config.workers
        for degree in self.chain.degrees[1:]:
            blocks = [list(range(i, i + degree)) for i in range(0, world, degree)]
            world_group = get_world_group()
            group = init_model_parallel_group(
                blocks,
                world_group.local_rank,
                dist.get_backend(world_group.device_group),
                group_name=f"amoeba_degree_{degree}",
            )
            transport = create_group(self.config.transport, group.cpu_group)
            if self.pool.device == "cpu":
                group.host_communicator = transport if self.config.transport == "peer" else None
            self.groups[degree], self.transports[degree] = group, transport

    def _make_movers(self, store: WeightStore) -> dict[int, KVMover]:
        """One mover for every block width, over the pools of the block's workers."""
        own = UnitBuffers(self.pool.blocks, self.chain.finest)
        staging = self.config.staging_mib << 20
        if self.config.transport == "collective":
            # Without a peer's pages there is nothing to refill weights from, so they stay.
            return {
                width: CollectiveKVMover(own, self.groups[width].cpu_group, staging)
                for width in self.transports
            }
        peers, units = self._open_peers()
        self.pages = PageExchange(self.pool.ranges, store, peers)
        waste = describe_waste(store.pages, self.pool.layer_num)
        if waste is not None and self.rank == 0:
            logger.warning(waste)
        movers: dict[int, KVMover] = {}
        for width, group in self.transports.items():
            first = self.index // width * width
            block = [units.get(index) for index in range(first, first + width)]
            movers[width] = PeerKVMover(own, block, group, staging)
        return movers

    def _open_peers(self) -> tuple[dict[int, AddressRange], dict[int, UnitBuffers]]:
        """The pages of the other workers of this group and the pools in them, by index."""
        memory = self.pool.memory
        offers: list[Any] = [None] * self.config.workers
        dist.all_gather_object(offers, memory.export(), group=get_world_group().cpu_group)
        first = self.rank - self.index
        handles = {i: offers[first + i] for i in range(self.config.group_size) if i != self.index}
        peers = {index: memory.open_peer(handle) for index, handle in handles.items()}
        units = {
            index: UnitBuffers(
                self.pool.peer_blocks(peers[index], handles[index]), self.chain.finest
            )
            for index in peers
        }
        return peers, units

    @property
    def degree(self) -> int:
        return self.executor.degree

    def may_sleep(self) -> bool:
        """Whether no peer waits for this worker. A ring meant for an earlier instance is dropped,
        or it would wake the idle poller for ever."""
        if self.lock_step is None:
            self.bell.latest()
            return True
        return self.lock_step.asleep

    def refusal(self, order: TransformOrder) -> str | None:
        """Why this worker cannot take part in the order, or None."""
        place = order.ranks.index(self.rank)
        before, after = order.before[place], order.after[place]
        if before != self.degree:
            return f"rank {self.rank} is at degree {self.degree}, not {before}"
        return None if self.pages is None else self.pages.refusal(before, after)

    def transform(self, order: TransformOrder) -> TransformReport:
        """Perform the order with its block and join the new instance."""
        width, before = len(order.ranks), self.degree
        report = Transformation(
            order,
            self.chain,
            order.ranks.index(self.rank),
            self.executor.layers,
            self.pool,
            self.pages,
            self.transports[width],
            self.movers[width],
        ).perform(live_slots(self.allocator))
        if self.degree != before:
            # The anchor, the first worker of an instance, has all of its grown slots.
            place = self.index % self.degree
            self.leases = Leases(self.allocator, self.tree_cache, self.chain, self.degree, place)
            if place == 0:
                leasable = (self.degree - 1) * self.allocator.size
                self.allocator.start_layout(self.grown[self.degree], leasable)
            else:
                self.allocator.start_layout(0, 0)
        self.ledger.clear()
        self.executor.forget()
        self.lock_step = None
        if self.degree > 1:
            first = self.rank // self.degree * self.degree
            ranks = tuple(range(first, first + self.degree))
            self.lock_step = LockStep(
                order.epoch, ranks, self.rank, self.transports[self.degree], self.bell
            )
        return report

    def synchronise(
        self, batch: Any, order: TransformOrder | None, demand: Demand
    ) -> list[StepRecord] | None:
        """Exchange records with the instance; None at degree 1 and while all sleep."""
        if self.lock_step is None:
            return None
        assert self.leases is not None
        leases = self.leases
        missing = leases.missing(demand)
        has_work = batch is not None or order is not None or leases.has_news(missing)
        ready = 0 if order is None else order.epoch
        records = self.lock_step.exchange(
            has_work,
            lambda step: self._describe(
                batch, step, has_work, ready, leases.offer(demand, missing)
            ),
        )
        if records is not None:
            leases.settle(records)
        return records

    def run_or_follow(self, batch: Any, records: list[StepRecord] | None) -> None:
        """Arrange the joint step: own forward will run it, or take part without rows now."""
        if records is None:
            return
        for mirror, record in zip(self.executor.mirrors, records, strict=False):
            mirror.forget(record.dead_rows)
        if not any(record.rows for record in records):
            return
        self.executor.expect(records)
        if batch is None:
            self.executor.follow()

    def _describe(
        self, batch: Any, step: int, has_work: bool, ready: int, leases: dict[str, Any]
    ) -> StepRecord:
        assert self.lock_step is not None
        rows = () if batch is None else self._rows(batch)
        pool = self.requests
        return StepRecord(
            epoch=self.lock_step.epoch,
            step=step,
            first_rank=self.lock_step.ranks[0],
            degrees=hash(tuple(layer.degree for layer in self.executor.layers)) >> 8,
            has_work=has_work,
            order=ready,
            extend=batch is not None and batch.forward_mode.is_extend(),
            rows=rows,
            dead_rows=self.ledger.forget_dead(pool.size - pool.available_size(), pool.free_slots),
            **leases,
        )

    def _rows(self, batch: Any) -> tuple[Row, ...]:
        row_numbers = batch.req_pool_indices_cpu.tolist()
        seq_lens = batch.seq_lens_cpu.tolist()
        extends = batch.extend_lens if batch.forward_mode.is_extend() else [1] * len(row_numbers)
        assert len(batch.reqs) == len(row_numbers), "rows without a request are not served"
        table, generations = self.requests.req_to_token, self.requests.req_generation
        rows = []
        for req, row, seq_len, extend in zip(
            batch.reqs, row_numbers, seq_lens, extends, strict=True
        ):
            known = self.ledger.advance(
                row,
                int(generations[row]),
                req.kv.cache_protected_len,
                seq_len - extend,
                seq_len,
            )
            slots = table[row, known:seq_len].to("cpu", torch.int64).numpy()
            rows.append(Row(row, seq_len, extend, known, slots))
        return tuple(rows)
