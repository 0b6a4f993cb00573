"""The router process: upstream's controller as the sockets and processes of a Desk."""

import logging
from dataclasses import asdict
from typing import Any

import zmq
from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.io_struct import FlushCacheReqInput, ShutdownReq, sock_recv, sock_send
from sglang.srt.runtime_context import get_observability, get_serving
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.adapters.choice import backend_of
from amoeba_sglang.adapters.messages import AdminReply, AdminRequest, IdleQuestion, LimitsChanged
from amoeba_sglang.adapters.router import translation
from amoeba_sglang.adapters.router.guard import Guard
from amoeba_sglang.clock import Clock
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router import effects
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.effects import Effect
from amoeba_sglang.control.router.events import (
    Arrival,
    Event,
    LoadsRead,
    Opened,
    Tick,
    TransformAsked,
)
from amoeba_sglang.control.router.metrics import NoMetrics, RouterMetrics
from amoeba_sglang.control.router.transform_request import TransformRequest
from amoeba_sglang.errors import ConfigError

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 0.02


class ElasticController(DataParallelController):
    """Tells a desk what arrives and does what it decides; ends the server when a worker is lost."""

    def __init__(self, server_args: Any, port_args: Any, *args: Any, **kwargs: Any) -> None:
        config: AmoebaConfig = server_args._amoeba
        self.config, self.clock = config, Clock(config.dilation)
        self.guard = Guard(self, config, port_args.tokenizer_ipc_name)
        super().__init__(server_args, port_args, *args, **kwargs)
        # Upstream's constructor does not send requests yet.
        self.dispatching = lambda request: self.tell(Arrival(translation.to_request(request)))
        self.refresh_load_budget_on_dispatch = True
        capacities = [info["capacity"] for info in self._scheduler_init_infos]
        assert all(capacity == capacities[0] for capacity in capacities), capacities
        # Opens the file, which the front end unlinks once all are up: a router that first looked
        # when a request came would see no load ever.
        self.load_snapshot_reader.read_all()
        truncates = get_serving().allow_auto_truncate
        backend = backend_of(server_args.device, config)
        terms = translation.to_terms(config, backend, self._scheduler_init_infos[0], truncates)
        self.desk = Desk(terms, Layout.uniform(config.workers, 1), self.clock.now())
        self.metrics = (
            RouterMetrics(terms.capacity) if get_observability().enable_metrics else NoMetrics()
        )
        self.front_end = self.guard.front_end
        self.reports = self.context.socket(zmq.PULL)
        self.reports.bind(config.report_address)
        self.poll_sources[self.reports] = self.drain_reports
        self.guard.watch()
        if config.initial_degree > 1:
            self.reach_degree(config.initial_degree)
        self.tell(Opened())
        self.metrics.show_layout(self.desk.operations.layout.degrees)

    def reach_degree(self, degree: int) -> None:
        """Bring a fresh server to `--amoeba-initial-degree` before it reports that it is ready."""
        operations = self.desk.operations
        for first in range(0, self.config.workers, degree):
            ranks = tuple(range(first, first + degree))
            request = TransformRequest(ranks, degree, f"initial-{first}", wait=False)
            self.tell(TransformAsked("", request))
            while operations.running is not None:
                self.reports.poll(100)
                self.drain_reports()
                self.on_tick()
            result = operations.history[-1]
            if result.outcome != "done":
                raise ConfigError(f"--amoeba-initial-degree {degree}: {result.error}")

    def get_init_info(self) -> dict:
        return {**super().get_init_info(), "request_limits": asdict(self.desk.limits)}

    # What the desk is told

    def tell(self, event: Event) -> None:
        """Let the desk take one event, and do what it says."""
        for effect in self.desk.handle(event, self.clock.now()):
            self.carry_out(effect)

    def init_dispatcher(self) -> None:
        super().init_dispatcher()
        self._request_dispatcher += TypeBasedDispatcher(
            [
                (ShutdownReq, self.handle_shutdown),
                *((kind, self.handle_judged) for kind in translation.JUDGED),
            ]
        )

    def handle_judged(self, message: Any) -> None:
        if isinstance(message, AdminRequest | FlushCacheReqInput):
            self.read_loads()
        self.tell(translation.to_event(message))

    def handle_shutdown(self, request: ShutdownReq) -> None:
        """From here on workers end because they were asked to."""
        self.guard.stopping = True
        self.send_control_message(request)

    def maybe_external_dp_rank_routing(self, request: Any) -> bool:
        """Upstream raises for a rank that does not exist; the desk answers its client alone."""
        rank = request.routed_dp_rank
        if rank is not None and not 0 <= rank < self.config.workers:
            self.dispatching(request)
            return True
        return super().maybe_external_dp_rank_routing(request)

    def refresh_load_budget(self) -> None:
        now = self.clock.now()
        if now - self._last_refresh_time >= _REFRESH_SECONDS:
            self._last_refresh_time = now
            self.read_loads()

    def read_loads(self) -> None:
        now, published = self.clock.now(), self.load_snapshot_reader.read_all()
        snapshots = [translation.to_snapshot(one, self.clock, now) for one in published]
        self.tell(LoadsRead(snapshots))

    def drain_reports(self) -> None:
        """Take what workers have reported."""
        while True:
            try:
                message = sock_recv(self.reports, flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            self.tell(message.report)

    def on_tick(self) -> None:
        self.guard.check()
        self.refresh_load_budget()
        self.tell(Tick())
        self.metrics.show_load(self.desk.books, self.clock.now())

    def on_worker_death(self, dp_rank: int | None, exitcode: int | None) -> None:
        self.guard.worker_died(dp_rank, exitcode)

    # What it decides

    def carry_out(self, effect: Effect) -> None:
        """Do one thing that the desk has decided."""
        match effect:
            case effects.Send():
                self.send_to_worker(effect.rank, effect.request.payload)
            case effects.Refuse():
                reason = translation.refusal_reason(effect.status, effect.reason)
                self.send_to_front_end(translation.end(effect.request, reason))
            case effects.Cancel(request, abort):
                self.send_to_front_end(translation.end(request, abort.finished_reason))
            case effects.Order():
                for rank in effect.ranks:
                    self.send_to_worker(rank, translation.to_order(effect))
            case effects.Answer() if effect.waiter:
                reply = AdminReply(rid=effect.waiter, status=effect.status, body=effect.body)
                self.send_to_front_end(reply)
            case effects.Finished() if effect.record.outcome != "unchanged":
                logger.info("transformation %s", effect.record.to_json())
                self.metrics.count(effect.record)
                self.metrics.show_layout(self.desk.operations.layout.degrees)
            case effects.Limits():
                self.send_to_front_end(LimitsChanged(limits=asdict(effect.limits)))
            case effects.Forward():
                self.send_control_message(effect.payload)
            case effects.RefuseControl():
                for _ in range(self.config.workers):
                    self.send_to_front_end(translation.refusal_of(effect))
            case effects.AskIdle():
                self.send_control_message(IdleQuestion(number=effect.number))
            case effects.Flush():
                self.send_control_message(FlushCacheReqInput())
            case effects.End():
                self.guard.end_server(effect.reason)

    def send_to_front_end(self, message: Any) -> None:
        sock_send(self.front_end, message)
