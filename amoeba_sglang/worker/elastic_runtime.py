"""The elastic state of one worker: its instance, its joint steps, a transformation under way."""

from __future__ import annotations

from typing import Any

import torch

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.device.step_work import StepWork
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.model.kv_allocator import ElasticAllocator, OwnPool
from amoeba_sglang.model.mirror import RowLedger
from amoeba_sglang.model.step_record import StepRecord, work_of_records
from amoeba_sglang.plan.pace import Pace
from amoeba_sglang.shares.claims import Claims
from amoeba_sglang.shares.departure import Order
from amoeba_sglang.shares.news import SlotNews
from amoeba_sglang.shares.refuge import kept_width
from amoeba_sglang.shares.seat import Seat
from amoeba_sglang.worker.batch_rows import extends, lengths_of_batch, rows_of_batch
from amoeba_sglang.worker.data_plane import DataPlane
from amoeba_sglang.worker.lock_step import LockStep
from amoeba_sglang.worker.requests import Requests, claims_of
from amoeba_sglang.worker.slots import live_slots
from amoeba_sglang.worker.step_clock import StepClock
from amoeba_sglang.worker.step_meter import StepMeter
from amoeba_sglang.worker.surroundings import Surroundings
from amoeba_sglang.worker.transformation import Transformation


class ElasticRuntime:
    """Made once, after upstream's scheduler; collective over all workers of the world."""

    def __init__(
        self, scheduler: Any, config: AmoebaConfig, rank: int, surroundings: Surroundings
    ) -> None:
        self.config, self.rank, self.clock = config, rank, surroundings.clock
        self.chain = DegreeChain(config.degrees)
        self.index = rank % config.group_size
        self.allocator: ElasticAllocator = scheduler.token_to_kv_pool_allocator
        self.requests = scheduler.req_to_token_pool
        self.slots, self.own = self.allocator.ledger, OwnPool(self.allocator, scheduler.tree_cache)
        self.slots.share(Seat(self.chain, 1, self.index), grown=0, beyond=0)
        self.pool = scheduler.tp_worker.model_runner.token_to_kv_pool
        self.progress = surroundings.share_words()
        self.groups = surroundings.connect(self.chain, self.pool.device, self.progress)
        self.plane: DataPlane = scheduler.make_data_plane(config, self.chain, rank, self.groups)
        self.executor, self.grown = self.plane.executor, self.plane.grown
        self.helper = surroundings.helper()
        self.step_clock = StepClock(surroundings.share_words(), rank, self.clock.now)
        self.meter = StepMeter(self.executor.lag, self.clock.now)
        self.bell = surroundings.bell(rank)
        self.ledger = RowLedger()
        self.lock_step: LockStep | None = None
        self.transformation: Transformation | None = None

    @property
    def degree(self) -> int:
        return self.executor.degree

    def may_sleep(self) -> bool:
        """Whether no peer waits for this worker. A ring meant for an earlier instance is dropped,
        or it would wake the idle poller for ever."""
        if self.lock_step is None:
            self.bell.rung((0, 0))
            return True
        return self.lock_step.asleep

    # Transformations

    def refusal(self, order: TransformOrder) -> str | None:
        """Why this worker cannot take part in the order, or None."""
        place = order.ranks.index(self.rank)
        before, after = order.before[place], order.after[place]
        if before != self.degree:
            return f"rank {self.rank} is at degree {self.degree}, not {before}"
        pages = self.plane.pages
        return None if pages is None else pages.refusal(before, after)

    def strangers(self, order: TransformOrder) -> list[int]:
        """Ranks of the block of the order that are not in step with this worker yet."""
        own = (self.rank,) if self.lock_step is None else self.lock_step.ranks
        return [rank for rank in order.ranks if rank not in own]

    def approach(self, order: TransformOrder) -> None:
        """Let the planned step begin late, nearer to those that it will be in step with."""
        if self.lock_step is not None and self.lock_step.ranks[0] != self.rank:
            return
        seconds = self.step_clock.delay(self.strangers(order))
        if seconds:
            self.clock.sleep(seconds)
            self.step_clock.start_late()

    def prepare(self, order: TransformOrder, requests: Requests) -> None:
        """Get ready to vote, which takes a refuge for what this worker's requests have on slots
        that the order takes away. `verdict` says when."""
        place = order.ranks.index(self.rank)
        before, after = order.before[place], order.after[place]
        if before == after or self.index % before:
            return
        width = kept_width(before, after, self.index)
        layers = self.config.layers
        self.slots.prepare(
            Order(range(self.rank, self.rank + width), layers, 2 * layers),
            self._claims(requests),
            self.own,
        )

    @property
    def verdict(self) -> str | None:
        """Of what `prepare` began: None while undecided, "" for yes, else why not."""
        return self.slots.verdict

    def must_wait(self, requests: Requests) -> bool:
        """Whether a step now could use up, before the change begins, what that will need."""
        return self.slots.has_voted and self.slots.runs_short(self._claims(requests))

    def stand_down(self) -> None:
        """Inverse of `prepare`: the order will not be carried out."""
        self.slots.stand_down(self.own)

    def _claims(self, requests: Requests) -> Claims:
        return claims_of(requests, self.allocator, self.requests.req_to_token, self.ledger.forget)

    def slots_beyond(self, degree: int) -> int:
        """Slots beyond its own that a request of this worker may have at a degree."""
        if self.index % degree:
            return 0
        return self.grown[degree] + (degree - 1) * self.allocator.num_pages

    def enter(self, order: TransformOrder) -> None:
        """Leave the instance and step together with the whole block of the order from now on."""
        self.step_clock.meet()
        place, width = order.ranks.index(self.rank), len(order.ranks)
        self.transformation = Transformation(
            order,
            self.chain,
            place,
            layers=self.executor.layers,
            pool=self.plane.views,
            pages=self.plane.pages,
            block=self.groups.transports[width],
            moving=self.groups.moving[width][1],
            mover=self.plane.movers[width],
            pace=Pace(self.config.layers_per_step, self.config.layers),
            helper=self.helper,
            crowding=self.plane.crowding,
            now=self.clock.now,
            copy_clock=self.plane.copy_clock,
        )
        self.transformation.enter()
        before, after = order.before[place], order.after[place]
        if before != after:
            # What the router promises while the order runs.
            beyond = min(self.slots_beyond(before), self.slots_beyond(after))
            self.slots.leave(after, beyond, self.own)
        self._step_with(width, order.epoch)

    def advance(self) -> Transformation | None:
        """Move the next layers of the transformation under way; returns it when it has ended."""
        transformation = self.transformation
        assert transformation is not None
        transformation.advance(live_slots(self.allocator))
        if not transformation.finished:
            return None
        self.transformation = None
        order = transformation.order
        place = order.ranks.index(self.rank)
        if order.before[place] != order.after[place]:
            seat, degree = Seat(self.chain, self.degree, self.index), self.degree
            self.slots.share(seat, self.grown[degree], self.slots_beyond(degree))
        if self.degree < len(order.ranks):
            self._step_with(self.degree, order.epoch)
        return transformation

    def _step_with(self, width: int, epoch: int) -> None:
        """Run in lock-step with the block of `width` workers; alone if it is 1."""
        self.ledger.clear()
        self.executor.forget()
        self.lock_step = None
        if width > 1:
            first = self.rank // width * width
            ranks = tuple(range(first, first + width))
            transport = self.groups.transports[width]
            self.lock_step = LockStep(epoch, ranks, self.rank, transport, self.bell)

    # Joint steps

    def synchronise(
        self, batch: Any, order: TransformOrder | None, ready: bool, requests: Requests
    ) -> list[StepRecord] | None:
        """Exchange records with the peers; None at degree 1 and while all sleep. `ready`: to enter
        what the `order` demands."""
        if self.lock_step is None:
            return None
        slots, claims = self.slots, None
        if not slots.idles(any_long=self.index % self.degree == 0 and self._any_long(requests)):
            claims = self._claims(requests)
        has_work = (
            batch is not None
            or order is not None
            or self.transformation is not None
            or (claims is not None and slots.has_news(claims, self.own))
        )
        records = self.lock_step.exchange(
            has_work,
            lambda step: self._describe(
                batch,
                step,
                has_work,
                order.epoch if order is not None and ready else 0,
                SlotNews() if claims is None else slots.offer(claims, self.own, ready),
            ),
        )
        if records is not None and slots.seat is not None:
            # While a wider block is in step, the instance is a part of it.
            at = self.index % len(records) // self.degree * self.degree
            instance = records[at : at + self.degree]
            slots.settle([record.slots for record in instance], self.own)
            self._copy_moved(instance[0].slots)
        return records

    def _any_long(self, requests: Requests) -> bool:
        return any(map(self.allocator.is_long, requests.all))

    def _copy_moved(self, anchor: SlotNews) -> None:
        """Copy what the anchor of this instance moves; every worker has its shard of each slot."""
        if not len(anchor.moved_from):
            return
        first, size = self.index // self.degree * self.degree, self.allocator.num_pages
        source, target = (
            torch.from_numpy(self.chain.joint_slots_of_ids(self.degree, first, ids, size))
            for ids in (anchor.moved_from, anchor.moved_to)
        )
        self.plane.views.copy_slots(source, target, self.config.staging_mib << 20)
        if self.index == first:
            self.allocator.finish_moves()

    def run_or_follow(self, batch: Any, records: list[StepRecord] | None) -> None:
        """Arrange the joint step: own forward will run it, or take part without rows now."""
        self._measure(batch, records)
        if records is None:
            return
        self.executor.hear(records)
        if not any(record.rows for record in records):
            return
        self.executor.expect(records, self.transformation)
        if batch is None:
            self.executor.follow()

    def _measure(self, batch: Any, records: list[StepRecord] | None) -> None:
        """Let the first worker of an instance time its steps; not those between two degrees."""
        if self.transformation is not None or self.index % self.degree:
            work = StepWork()
        elif records is not None:
            work = work_of_records(records)
        else:
            work = StepWork() if batch is None else StepWork.of_rows(lengths_of_batch(batch))
        if work:
            self.meter.launch(self.degree, work)
        else:
            self.meter.rest()

    def _describe(
        self, batch: Any, step: int, has_work: bool, ready: int, slots: SlotNews
    ) -> StepRecord:
        assert self.lock_step is not None
        pool, page = self.requests, self.allocator.page_size
        rows = () if batch is None else rows_of_batch(batch, pool, self.ledger, page)
        extend = extends(batch)
        return StepRecord(
            epoch=self.lock_step.epoch,
            step=step,
            first_rank=self.lock_step.ranks[0],
            boundary=-1 if self.transformation is None else self.transformation.boundary.b,
            has_work=has_work,
            order=ready,
            extend=extend,
            scores_prompts=extend and (batch.return_logprob or batch.is_prefill_only),
            rows=rows,
            dead_rows=self.ledger.forget_dead(pool.size - pool.available_size(), pool.free_slots),
            slots=slots,
        )
