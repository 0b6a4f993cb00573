"""The elastic state of one worker: its instance, its joint steps, a transformation under way."""

from typing import Any

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator, OwnPool
from amoeba_sglang.adapters.worker.batch_rows import extends, lengths_of_batch, rows_of_batch
from amoeba_sglang.adapters.worker.requests import Requests, claims_of
from amoeba_sglang.adapters.worker.slots import live_slots
from amoeba_sglang.adapters.worker.surroundings import Surroundings
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.shares.claims import Claims
from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.news import SlotNews
from amoeba_sglang.control.shares.refuge import kept_width
from amoeba_sglang.control.shares.seat import Seat
from amoeba_sglang.control.transform.pace import Pace
from amoeba_sglang.control.worker.mirror import RowLedger
from amoeba_sglang.control.worker.protocol import Exchange, State, WorkerProtocol
from amoeba_sglang.control.worker.step_clock import StepClock
from amoeba_sglang.control.worker.step_meter import StepMeter
from amoeba_sglang.control.worker.step_record import StepRecord, require_agreement, work_of_records
from amoeba_sglang.planes.transformation import Transformation


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
        self.slots.share(Seat(self.chain, 1, self.index), grown=0)
        self.progress = surroundings.share_words()
        self.groups = surroundings.connect(self.chain, self.progress)
        self.plane = surroundings.plane(scheduler, rank, self.groups)
        self.executor, self.grown = self.plane.executor, self.plane.grown
        self.helper = surroundings.helper()
        self.forwards = scheduler.forwards
        self.step_clock = StepClock(surroundings.share_words(), rank, self.clock.now)
        self.meter = StepMeter(self.executor.lag, self.clock.now)
        self.bell = surroundings.bell(rank)
        self.ledger = RowLedger()
        self.protocol = WorkerProtocol(rank)
        self.transformation: Transformation | None = None
        # When COMMIT came.
        self._committed = 0.0

    @property
    def degree(self) -> int:
        return self.executor.degree

    def may_sleep(self) -> bool:
        """Whether no peer waits for this worker. A ring meant for an earlier instance is dropped,
        or it would wake the idle poller forever."""
        state = self.protocol.state
        if state is State.ALONE:
            self.bell.rung((0, 0))
        return state in (State.ALONE, State.ASLEEP)

    # Transformations

    def refusal(self, order: TransformOrder) -> str | None:
        """Why this worker cannot take part in the order, or None."""
        place = order.ranks.index(self.rank)
        before, after = order.before[place], order.after[place]
        if before != self.degree:
            return f"rank {self.rank} is at degree {self.degree}, not {before}"
        return self.plane.refusal(before, after)

    def approach(self, ranks: tuple[int, ...]) -> None:
        """Let the planned step begin late, nearer to those that it will be in step with."""
        seconds = self.step_clock.delay(ranks)
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
        return claims_of(requests, self.allocator, self.requests, self.ledger.forget)

    def slots_beyond(self, *degrees: int) -> int:
        """Slots beyond its own that a request of this worker may have at all of these degrees."""
        size = self.allocator.num_pages
        return min(
            0 if self.index % degree else self.grown[degree] + (degree - 1) * size
            for degree in degrees
        )

    def enter(self, order: TransformOrder, committed: float) -> None:
        """Leave the instance and meet the whole block of the order. `committed`: when it came."""
        self._committed, slowest_step = committed, self.step_clock.slowest_seconds
        plain_seconds = self.step_clock.plain_seconds
        self.step_clock.meet()
        place, width = order.ranks.index(self.rank), len(order.ranks)
        self.transformation = Transformation(
            order,
            self.chain,
            place,
            plane=self.plane,
            block=self.groups.transports[width],
            moving=self.groups.moving[width][1],
            pace=Pace(self.config.layers_per_step),
            plain_seconds=plain_seconds,
            helper=self.helper,
            now=self.clock.now,
        )
        self.transformation.enter()
        report = self.transformation.report
        report.lockstep_seconds = self.clock.now() - committed
        report.step_seconds = slowest_step
        before, after = order.before[place], order.after[place]
        if before != after:
            self.slots.leave(after, self.own)

    def advance(self) -> bool:
        """Move the next layers of the transformation under way; whether it has ended."""
        transformation = self.transformation
        assert transformation is not None
        transformation.advance(live_slots(self.allocator))
        if not transformation.finished:
            return False
        self.transformation = None
        transformation.report.seconds = self.clock.now() - self._committed
        order = transformation.order
        place = order.ranks.index(self.rank)
        if order.before[place] != order.after[place]:
            self.slots.share(Seat(self.chain, self.degree, self.index), self.grown[self.degree])
        return True

    def join(self, epoch: int, ranks: tuple[int, ...]) -> None:
        """Step together with `ranks` from now on: nobody knows anybody's rows yet."""
        self.ledger.clear()
        self.executor.forget()
        if len(ranks) > 1:
            self.groups.transports[len(ranks)].phase = f"the joint steps of epoch {epoch}"

    # Joint steps

    def has_news(self, requests: Requests) -> bool:
        """Whether peers must hear of this worker's slots although it has no rows to run."""
        claims = self._claims_if_any(requests)
        return claims is not None and self.slots.has_news(claims, self.own)

    def exchange(self, step: Exchange, batch: Any, requests: Requests) -> list[StepRecord]:
        """Exchange records with the peers, and let slots change hands as they say; by rank."""
        claims, slots = self._claims_if_any(requests), self.slots
        news = SlotNews() if claims is None else slots.offer(claims, self.own, bool(step.ready))
        group = self.groups.transports[len(self.protocol.ranks)]
        words = group.exchange(self._describe(batch, step, news).encode())
        records = [StepRecord.decode(w) for w in words]
        require_agreement(records)
        if slots.seat is not None:
            # While a wider block is in step, the instance is a part of it.
            at = self.index % len(records) // self.degree * self.degree
            instance = records[at : at + self.degree]
            slots.settle([record.slots for record in instance], self.own)
            self._copy_moved(instance[0].slots)
        return records

    def _claims_if_any(self, requests: Requests) -> Claims | None:
        """None while there is nothing to say of slots: they cost a walk over all requests."""
        anchor = self.index % self.degree == 0
        any_long = anchor and any(map(self.allocator.is_long, requests.all))
        return None if self.slots.idles(any_long=any_long) else self._claims(requests)

    def _copy_moved(self, anchor: SlotNews) -> None:
        """Copy what the anchor of this instance moves; every worker has its shard of each slot."""
        if not len(anchor.moved_from):
            return
        first, size = self.index // self.degree * self.degree, self.allocator.num_pages
        source, target = (
            self.chain.joint_slots_of_ids(self.degree, first, ids, size)
            for ids in (anchor.moved_from, anchor.moved_to)
        )
        with self.forwards():
            self.plane.copy_slots(source, target)
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
            with self.forwards():
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

    def _describe(self, batch: Any, step: Exchange, slots: SlotNews) -> StepRecord:
        pool, page = self.requests, self.allocator.page_size
        rows = () if batch is None else rows_of_batch(batch, pool, self.ledger, page)
        extend = extends(batch)
        return StepRecord(
            epoch=step.epoch,
            step=step.step,
            first_rank=self.protocol.ranks[0],
            boundary=-1 if self.transformation is None else self.transformation.boundary.b,
            has_work=step.has_work,
            order=step.ready,
            extend=extend,
            scores_prompts=extend and (batch.return_logprob or batch.is_prefill_only),
            rows=rows,
            dead_rows=self.ledger.forget_dead(pool.size - pool.available_size(), pool.free_slots),
            slots=slots,
        )
