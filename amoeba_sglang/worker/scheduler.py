"""The scheduler of an elastic worker: upstream's, plus joint steps and transformations.

Requests, radix cache, allocator, sampler and sockets stay upstream's and never merge. Everything
elastic happens at one point of the loop, after the next batch is planned and before it runs.
"""

from __future__ import annotations

import gc
import os
from dataclasses import asdict
from functools import partial
from typing import Any

from sglang.srt.managers.scheduler import NextBatchPlan, Scheduler
from sglang.srt.runtime_context import get_parallel
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.reports import Done, Vote
from amoeba_sglang.router.limits import Capacity
from amoeba_sglang.worker.audit import RequestEvents
from amoeba_sglang.worker.batch_rows import extends
from amoeba_sglang.worker.connections import Groups
from amoeba_sglang.worker.control_requests import ControlRequests
from amoeba_sglang.worker.data_plane import DataPlane, make_cpu_plane
from amoeba_sglang.worker.demand import Demand
from amoeba_sglang.worker.elastic_runtime import ElasticRuntime
from amoeba_sglang.worker.loads import ElasticLoadInquirer
from amoeba_sglang.worker.long_report import LongReport
from amoeba_sglang.worker.pool_stats import ElasticPoolStatsObserver, capacity_tokens
from amoeba_sglang.worker.reports import Reports
from amoeba_sglang.worker.request_intake import RequestIntake
from amoeba_sglang.worker.self_checks import SelfChecks
from amoeba_sglang.worker.slots import live_requests
from amoeba_sglang.worker.surroundings import LiveSurroundings, Surroundings

_WAIT_SECONDS = 0.005


class ElasticScheduler(RequestIntake, ControlRequests, Reports, SelfChecks, Scheduler):
    """One worker of an Amoeba group; `dp_rank` is its rank in the one world.

    `surroundings`: what it is connected to, that of a process of its own unless given.
    """

    def __init__(
        self, server_args: Any, port_args: Any, surroundings: Surroundings | None = None
    ) -> None:
        config: AmoebaConfig = server_args._amoeba
        surroundings = surroundings or LiveSurroundings(config)
        self.clock = surroundings.clock
        # When this worker last took requests from its socket, in seconds since the epoch.
        self.received_at = self.clock.wall()
        super().__init__(server_args, port_args)
        rank = get_parallel().dp_rank
        # Orders that this worker has yet to vote about, has just voted for, and is to carry out.
        self.undecided: TransformOrder | None = None
        self.prepared: TransformOrder | None = None
        self.order: TransformOrder | None = None
        self.order_received = 0.0
        self.long_report = LongReport()
        self.shown_capacity = self.max_total_num_tokens
        self.audits = os.environ.get("AMOEBA_AUDIT") == "1"
        self.request_events = RequestEvents()
        self.step_events: dict[str, int] = {}
        self.runtime = ElasticRuntime(self, config, rank, surroundings)
        self.own_slots = self.max_total_num_tokens
        self.tp_worker.model_runner.joint_forward = self.runtime.executor.forward
        self.link = surroundings.link(rank)
        assert self.idle_sleeper is not None, "the launcher sets --sleep-on-idle"
        self.idle_sleeper.poller.register(self.runtime.bell.fileno(), 1)
        # What is here now stays for ever. Looking through it took 0.6 s at every full collection,
        # in the middle of some step.
        gc.freeze()

    def make_data_plane(
        self, config: AmoebaConfig, chain: DegreeChain, rank: int, groups: Groups
    ) -> DataPlane:
        """What computes and moves here; collective over all workers of the world."""
        runner, allocator = self.tp_worker.model_runner, self.token_to_kv_pool_allocator
        return make_cpu_plane(runner, allocator, config, chain, rank, groups)

    def init_pool_stats_observer(self) -> None:
        super().init_pool_stats_observer()
        self.pool_stats_observer = ElasticPoolStatsObserver.around(self.pool_stats_observer)

    def init_load_inquirer(self) -> None:
        super().init_load_inquirer()
        self.load_inquirer = ElasticLoadInquirer.around(self.load_inquirer, self)

    def init_request_dispatcher(self) -> None:
        super().init_request_dispatcher()
        upstream = self._request_dispatcher
        self._request_dispatcher = TypeBasedDispatcher([(TransformOrder, self.handle_order)])
        self._request_dispatcher += upstream

    def get_init_info(self) -> dict[str, Any]:
        return {
            **super().get_init_info(),
            "capacity": asdict(self.capacity),
            "max_rows": self.max_running_requests,
            "max_queued": self.max_queued_requests,
        }

    @property
    def capacity(self) -> Capacity:
        page = self.page_size
        grown = {degree: slots * page for degree, slots in self.runtime.grown.items()}
        return Capacity(self.own_slots, self.model_config.context_len, grown, page)

    def follow_capacity(self) -> None:
        """Let upstream's limits for new requests follow the slots that this worker has now."""
        allocator = self.token_to_kv_pool_allocator
        tokens = self.own_slots + (allocator.grown + allocator.leasable) * self.page_size
        self.max_req_len = min(self.model_config.context_len, tokens) - 1
        self.max_req_input_len = self.max_req_len - 5

    def refusal(self, order: TransformOrder) -> str | None:
        """Why this worker cannot take part in the order, or None."""
        rank, place = self.runtime.rank, order.ranks.index(self.runtime.rank)
        degree = order.after[place]
        if order.before[place] != degree:
            most = self.capacity.request_tokens(degree, anchor=rank % degree == 0)
            for req in (*live_requests(self, ()), *self.waiting_queue):
                wanted = self.token_to_kv_pool_allocator.tokens_wanted(req)
                if wanted > most and not self.is_ending(req):
                    return (
                        f"request {req.rid} needs up to {wanted} tokens of KV memory, but here one "
                        f"request can have {most} at degree {degree}; wait for its end, or abort it"
                    )
        return self.runtime.refusal(order)

    def is_ending(self, req: Any) -> bool:
        """Whether a request has ended or been aborted, and only has to leave."""
        aborted = req.to_finish is not None or req is self._pending_chunked_abort_req
        return aborted or req.finished()

    def handle_order(self, order: TransformOrder) -> None:
        """PREPARE: get ready and vote, still serving. COMMIT: perform at the next planned step."""
        if order.phase == "prepare":
            reason = self.refusal(order)
            self.undecided = order
            if reason is None:
                self.runtime.prepare(order, live_requests(self, ()))
                reason = self.runtime.verdict
            self.vote(reason)
        elif order.phase == "commit":
            assert self.order is None, f"{self.order} is still waiting"
            self.order, self.order_received = order, self.clock.now()
        else:
            self.undecided = self.prepared = None
            self.stand_down()

    def vote(self, reason: str | None) -> None:
        """Vote about the order being prepared; `reason`: why not, "" for yes, None for later."""
        order = self.undecided
        if order is None or reason is None:
            return
        self.undecided = None
        if reason:
            self.stand_down()
        else:
            self.prepared = order
        accept = not reason
        self.link.send(
            Vote(rank=self.runtime.rank, epoch=order.epoch, accept=accept, reason=reason)
        )

    def stand_down(self) -> None:
        """The order will not be carried out: long requests may be admitted again."""
        self.runtime.stand_down()
        # Upstream looks at the queue again only when a running request has ended.
        self.running_batch.batch_is_full = False

    def show_capacity(self) -> None:
        """Let the gauge of what this worker has follow what it has."""
        tokens = capacity_tokens(self.token_to_kv_pool_allocator)
        if tokens == self.shown_capacity:
            return
        self.shown_capacity = tokens
        if self.metrics_reporter.current_scheduler_metrics_enabled:
            collector = self.metrics_collector
            collector.max_total_num_tokens.labels(**collector.labels).set(tokens)

    def get_next_batch_to_run(self, running_batch: Any, last_batch: Any) -> Any:
        if self.must_wait(running_batch, last_batch):
            self.clock.sleep(_WAIT_SECONDS)
            plan = NextBatchPlan(batch_to_run=None, running_batch=running_batch)
        else:
            plan = super().get_next_batch_to_run(running_batch, last_batch)
        batch = plan.batch_to_run
        self.runtime.step_clock.tick(batch is not None, extends(batch))
        self.step_with_peers(batch, plan.running_batch)
        return plan

    def must_wait(self, running_batch: Any, last_batch: Any) -> bool:
        """Whether to run nothing until the order voted for is taken back or carried out."""
        if last_batch and last_batch.forward_mode.is_extend():
            # Its requests have yet to be taken over into the running batch.
            return False
        return self.runtime.must_wait(partial(live_requests, self, (running_batch, last_batch)))

    def ingest_requests(self, stop_at_pause: bool = False) -> list[Any]:
        self.received_at = self.clock.wall()
        received = super().ingest_requests(stop_at_pause)
        # A paused engine plans nothing, but its peers may still wait for it in an exchange.
        if self._engine_paused:
            self.step_with_peers(None, None)
        return received

    def step_with_peers(self, batch: Any, running_batch: Any) -> None:
        """Take the next step of a committed order, and agree with the peers on what runs now."""
        self.runtime.progress[self.runtime.rank] += 1
        # Until the event loop goes on. SGLang's watchdog would take waiting for a slow peer for a
        # forward that hangs; the transport knows whether the peer gets on.
        self.cur_batch_for_debug = None
        planned, ready = (batch, running_batch), False
        live = partial(live_requests, self, planned)
        if self.audits:
            self.step_events = self.request_events.since_last_step(live(), batch)
        if self.prepared is not None:
            self.runtime.approach(self.prepared)
            self.prepared = None
        demand = Demand(self.waiting_queue, live, self.is_ending)
        self.report_long_requests(demand)
        if self.order is not None:
            ready = not self.runtime.step_clock.should_defer(self.runtime.strangers(self.order))
            if ready and self.runtime.lock_step is None:
                self.enter(planned)
        self.advance(planned)
        records = self.runtime.synchronise(batch, self.order, ready, demand)
        self.vote(self.runtime.verdict)
        if self.order is not None and records is not None:
            if all(record.order == self.order.epoch for record in records):
                self.enter(planned)
                self.advance(planned)
                records = self.runtime.synchronise(batch, None, False, demand)
        self.report_steps()
        self.show_capacity()
        self.runtime.run_or_follow(batch, records)

    def enter(self, planned: tuple[Any, Any]) -> None:
        """Step together with the block of the committed order. `planned`: batches not installed
        yet."""
        order, self.order = self.order, None
        assert order is not None
        self.runtime.executor.synchronize()
        if self.audits:
            self.require_clean_slots(*planned)
            self.log_digest("before")
        step_seconds = self.runtime.step_clock.slowest_seconds
        self.runtime.enter(order)
        self.follow_capacity()
        report = self.runtime.transformation.report
        report.lockstep_seconds = self.clock.now() - self.order_received
        report.step_seconds = step_seconds

    def advance(self, planned: tuple[Any, Any]) -> None:
        """Move the next layers of a transformation under way, and report how far it is."""
        under_way = self.runtime.transformation
        if under_way is None:
            return
        self.runtime.executor.synchronize()
        ended = self.runtime.advance()
        if self.audits:
            self.require_clean_slots(*planned)
            self.log_step(under_way)
        if ended is None:
            self.report_progress(under_way)
            return
        self.follow_capacity()
        if self.audits:
            self.log_digest("after")
        ended.report.seconds = self.clock.now() - self.order_received
        done = Done(rank=self.runtime.rank, epoch=ended.order.epoch, report=ended.report)
        self.link.send(done)

    def on_idle(self) -> None:
        if not self.runtime.may_sleep():
            return
        if self.audits and self.is_fully_idle():
            self.require_clean_slots()
        super().on_idle()
