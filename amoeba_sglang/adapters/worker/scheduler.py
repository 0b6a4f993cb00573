"""The scheduler of an elastic worker: upstream's, plus joint steps and transformations.

Requests, radix cache, allocator, sampler and sockets stay upstream's and never merge. Everything
elastic happens at one point of the loop, after the next batch is planned and before it runs.
"""

import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from sglang.srt.managers.scheduler import NextBatchPlan, Scheduler
from sglang.srt.runtime_context import get_parallel
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.adapters.choice import backend_of
from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.worker.batch_rows import extends
from amoeba_sglang.adapters.worker.control_requests import ControlRequests
from amoeba_sglang.adapters.worker.elastic_runtime import ElasticRuntime
from amoeba_sglang.adapters.worker.expert_recorder import ExpertRecorder
from amoeba_sglang.adapters.worker.loads import ElasticLoadInquirer
from amoeba_sglang.adapters.worker.pool_stats import ElasticPoolStatsObserver, capacity_tokens
from amoeba_sglang.adapters.worker.reports import Reports
from amoeba_sglang.adapters.worker.request_intake import RequestIntake
from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.adapters.worker.retraction import Retraction
from amoeba_sglang.adapters.worker.surroundings import LiveSurroundings, Surroundings
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.worker.long_report import LongReport

_WAIT_SECONDS = 0.005


class ElasticScheduler(RequestIntake, ControlRequests, Reports, Retraction, Scheduler):
    """One worker of an Amoeba group; `dp_rank` is its rank in the one world.

    `surroundings`: what it is connected to, that of a process of its own unless given.
    """

    def __init__(
        self, server_args: Any, port_args: Any, surroundings: Surroundings | None = None
    ) -> None:
        config: AmoebaConfig = server_args._amoeba
        if surroundings is None:
            surroundings = LiveSurroundings(config, backend_of(server_args.device, config))
        self.clock = surroundings.clock
        # When this worker last took requests from its socket, in seconds since the epoch.
        self.received_at = self.clock.wall()
        super().__init__(server_args, port_args)
        rank = get_parallel().dp_rank
        self.long_report = LongReport()
        self.shown_capacity = self.max_total_num_tokens
        # The first in the queue when that was looked through last.
        self.first_seen: Any = None
        self.runtime = ElasticRuntime(self, config, rank, surroundings)
        self.expert_recorder = ExpertRecorder.of_worker(
            config, rank, self.runtime.executor, self.clock.now()
        )
        self.own_tokens = self.max_total_num_tokens
        self.tp_worker.model_runner.joint_forward = self.runtime.executor.forward
        self.link = surroundings.link(rank)
        assert self.idle_sleeper is not None, "the launcher sets --sleep-on-idle"
        self.idle_sleeper.poller.register(self.runtime.bell.fileno(), 1)
        # What is here now stays. Looking through it took 0.6 s at every full collection,
        # in the middle of some step.
        gc.freeze()

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
        return Capacity(
            own_tokens=self.own_tokens,
            context_tokens=self.model_config.context_len,
            grown_tokens=grown,
            page_tokens=page,
        )

    def follow_capacity(self, degrees: tuple[int, ...]) -> None:
        """Let a request have what all of these degrees of this worker hold, and no more."""
        beyond = self.runtime.slots.beyond = self.runtime.slots_beyond(*degrees)
        tokens = self.own_tokens + beyond * self.page_size
        self.max_req_len = min(self.model_config.context_len, tokens) - 1
        self.max_req_input_len = self.max_req_len - 5

    def handle_order(self, order: TransformOrder) -> None:
        """PREPARE: get ready and vote, still serving. COMMIT: perform at the next planned step."""
        self.begin_turn().carry_out(self.runtime.protocol.receive(order, self.clock.now()))

    def begin_turn(self, batch: Any = None, running_batch: Any = None) -> Turn:
        """What carries out the next effects of the protocol."""
        return Turn(self, batch, running_batch)

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
        if self.expert_recorder is not None:
            self.expert_recorder.tick(self.clock.now())
        if self.runtime.slots.take_growth() or self.first_waiting is not self.first_seen:
            # Upstream looks at the queue again only when a running request has ended.
            running_batch.batch_is_full = False
        if self.must_wait(running_batch, last_batch):
            self.clock.sleep(_WAIT_SECONDS)
            plan = NextBatchPlan(batch_to_run=None, running_batch=running_batch)
        else:
            plan = super().get_next_batch_to_run(running_batch, last_batch)
        self.first_seen = self.first_waiting
        batch = plan.batch_to_run
        self.runtime.step_clock.tick(batch is not None, extends(batch))
        self.step_with_peers(batch, plan.running_batch)
        return plan

    @property
    def first_waiting(self) -> Any:
        """For whom memory is full while it is: if it leaves the queue, the next may fit."""
        return self.waiting_queue[0] if self.waiting_queue else None

    def must_wait(self, running_batch: Any, last_batch: Any) -> bool:
        """Whether to run nothing until the order voted for is taken back or carried out."""
        if last_batch and last_batch.forward_mode.is_extend():
            # Its requests have yet to be taken over into the running batch.
            return False
        return self.runtime.must_wait(Requests(self, (running_batch, last_batch)))

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
        turn = self.begin_turn(batch, running_batch)
        self.report_long_requests(turn.requests)
        turn.carry_out(self.runtime.protocol.turn(batch is not None))

    def forwards(self) -> AbstractContextManager:
        """What is launched inside runs where `run_batch` launches forwards, in their order."""
        return self.forward_stream_ctx if self.enable_overlap else nullcontext()

    def run_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Upstream's; its results are there when the plane is done."""
        result = super().run_batch(batch, *args, **kwargs)
        with self.forwards():
            launched = self.runtime.plane.launched()
        if launched is not None:
            result.copy_done = launched
        return result

    def on_idle(self) -> None:
        self.runtime.plane.rest()
        if self.runtime.may_sleep():
            super().on_idle()
