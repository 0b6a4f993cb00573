"""The router process: upstream's controller with layouts, transformations and policies."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import zmq
from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.io_struct import (
    AbortReq,
    ShutdownReq,
    sock_recv,
    sock_send,
)
from sglang.srt.runtime_context import get_observability
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.clock import Clock
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import (
    AdminReply,
    AdminRequest,
    LimitsChanged,
    TransformOrder,
    WorkerReport,
)
from amoeba_sglang.policy import POLICIES
from amoeba_sglang.router.calibration import Calibration
from amoeba_sglang.router.control_messages import ControlMessages
from amoeba_sglang.router.effects import Answer, Effect, Finished, Order
from amoeba_sglang.router.guard import Guard
from amoeba_sglang.router.limits import Capacity
from amoeba_sglang.router.loads import LoadBook
from amoeba_sglang.router.long_requests import LongRequests
from amoeba_sglang.router.metrics import NoMetrics, RouterMetrics
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.placement import Placement
from amoeba_sglang.router.state import describe_loads, describe_server, late_share
from amoeba_sglang.router.transform_request import TransformRequest
from amoeba_sglang.router.waiting_limits import WaitingLimits

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 0.02


class ElasticController(ControlMessages, DataParallelController):
    """Routes by policy, runs transformations, and ends the server when a worker is lost."""

    def __init__(self, server_args: Any, port_args: Any, *args: Any, **kwargs: Any) -> None:
        config: AmoebaConfig = server_args._amoeba
        self.config, self.clock = config, Clock(config.dilation)
        self.chain = DegreeChain(config.degrees)
        self.operations = Operations(
            self.chain,
            Layout.uniform(config.workers, 1),
            config.layers,
            config.prepare_timeout_s,
            config.finish_timeout_s,
        )
        self.guard = Guard(self, config, port_args.tokenizer_ipc_name)
        super().__init__(server_args, port_args, *args, **kwargs)
        # Upstream's constructor does not send requests yet.
        self.dispatching = lambda request: self.placement.place(request)
        self.refresh_load_budget_on_dispatch = True
        self.capacity = Capacity(**self._scheduler_init_infos[0]["capacity"])
        assert all(
            info["capacity"] == self._scheduler_init_infos[0]["capacity"]
            for info in self._scheduler_init_infos
        ), self._scheduler_init_infos
        max_rows = self._scheduler_init_infos[0]["max_rows"]
        self.calibration = Calibration(self.capacity, max_rows, config.throughput_table)
        self.emulation_times: dict[int, tuple[float, float]] = {}
        self.load_book = LoadBook(config.workers, self.clock.wall)
        # Opens the file, which the front end unlinks once all are up: a router that first looked
        # when a request came would see no load ever.
        self.load_snapshot_reader.read_all()
        most_queued = self._scheduler_init_infos[0]["max_queued"]
        self.waiting_limits = WaitingLimits.of_server(config.workers, most_queued)
        self.placement = self.make_placement()
        self.cache_flush = self.make_cache_flush()
        self.metrics = (
            RouterMetrics(self.capacity) if get_observability().enable_metrics else NoMetrics()
        )
        self.front_end = self.guard.front_end
        self.reports = self.context.socket(zmq.PULL)
        self.reports.bind(config.report_address)
        self.poll_sources[self.reports] = self.drain_reports
        self.guard.watch()
        if config.initial_degree > 1:
            self.reach_degree(config.initial_degree)
        rules = POLICIES[config.policy].layout
        if rules is not None:
            self.placement.follow_rules(rules, self.chain, config.initial_degree)
        self.metrics.show_layout(self.operations.layout.degrees)

    def make_placement(self) -> Placement:
        return Placement(
            POLICIES[self.config.policy],
            self.capacity,
            self.operations,
            self.load_book,
            # Upstream replaces the method when workers come and go.
            lambda rank, request: self.send_to_worker(rank, request),
            self.send_to_front_end,
            self.clock.now,
            self.waiting_limits,
        )

    def send_to_front_end(self, message: Any) -> None:
        sock_send(self.front_end, message)

    def get_init_info(self) -> dict:
        return {**super().get_init_info(), "request_limits": asdict(self.placement.limits)}

    def init_dispatcher(self) -> None:
        super().init_dispatcher()
        self._request_dispatcher += TypeBasedDispatcher(
            [
                (AdminRequest, self.handle_admin),
                (AbortReq, self.handle_abort),
                (ShutdownReq, self.handle_shutdown),
            ]
        )

    def refresh_load_budget(self) -> None:
        now = self.clock.now()
        if now - self._last_refresh_time >= _REFRESH_SECONDS:
            self._last_refresh_time = now
            self.load_book.update(self.load_snapshot_reader.read_all())

    def maybe_external_dp_rank_routing(self, request: Any) -> bool:
        """Upstream's, but a rank that does not exist is an error of the client alone."""
        rank = request.routed_dp_rank
        if rank is not None and not self.placement.has_rank(rank):
            self.placement.reject_rank(request)
            return True
        return super().maybe_external_dp_rank_routing(request)

    def handle_abort(self, request: AbortReq) -> None:
        self.placement.abort(request)
        self.send_control_message(request)

    # Control messages

    def handle_shutdown(self, request: ShutdownReq) -> None:
        """From here on workers end because they were asked to."""
        self.guard.stopping = True
        self.send_control_message(request)

    def handle_admin(self, request: AdminRequest) -> None:
        """Answer `GET /amoeba/state` or `GET /get_load`, or start a transformation."""
        assert request.rid is not None
        if request.kind == "state":
            snapshots = self.load_snapshot_reader.read_all()
            body = describe_server(self.config, self.operations, self.capacity, snapshots)
            body["throughput"] = self.calibration.describe()
            if self.config.emulation is not None:
                body["EMULATED"]["late_share"] = late_share(self.emulation_times.values())
            if self.placement.long_requests is not None:
                body.update(self.placement.long_requests.keeper.describe(self.clock.now()))
            self.apply([Answer(request.rid, 200, body)])
        elif request.kind == "load":
            self.load_book.update(self.load_snapshot_reader.read_all())
            long_requests = self.placement.long_requests
            queue = () if long_requests is None else long_requests.keeper.queue
            loads = describe_loads(self.load_book.loads, [waiting.long for waiting in queue])
            self.apply([Answer(request.rid, 200, {"loads": loads})])
        else:
            transform = TransformRequest.from_body(request.body)
            self.apply(self.operations.submit(transform, request.rid, self.clock.now()))

    def receive_reports(self, milliseconds: int) -> None:
        """Take what workers report within that time."""
        self.reports.poll(milliseconds)
        self.drain_reports()

    def drain_reports(self) -> None:
        """Take what workers have reported."""
        while True:
            try:
                report: WorkerReport = sock_recv(self.reports, flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            self.take_report(report)

    def take_report(self, report: WorkerReport) -> None:
        now = self.clock.now()
        if report.kind == "vote":
            accept, reason = report.body["accept"], report.body["reason"]
            self.apply(self.operations.vote(report.rank, report.epoch, accept, reason, now))
        elif report.kind == "long requests" and self.placement.long_requests is not None:
            self.placement.long_requests.report(report, now)
        elif report.kind == "idle":
            self.cache_flush.take(report)
        elif report.kind == "steps":
            self.take_steps(report)
        elif report.kind == "progress":
            self.operations.progress(report.epoch, report.body, now)
        elif report.kind == "done":
            self.apply(self.operations.done(report.rank, report.epoch, report.body, now))

    def take_steps(self, report: WorkerReport) -> None:
        """A worker has measured steps."""
        self.calibration.add(report.body["sums"])
        if "late_seconds" in report.body:
            times = report.body["late_seconds"], report.body["busy_seconds"]
            self.emulation_times[report.rank] = times

    def apply(self, effects: list[Effect]) -> None:
        """Carry out what the state machine decided."""
        for effect in effects:
            if isinstance(effect, Order):
                self.send_order(effect)
            elif isinstance(effect, Answer):
                reply = AdminReply(rid=effect.waiter, status=effect.status, body=effect.body)
                self.send_to_front_end(reply)
            elif isinstance(effect, Finished):
                self.finish(effect.record)
            else:
                self.guard.end_server(effect.reason)

    def finish(self, record: dict[str, Any]) -> None:
        """An operation has ended."""
        if self.placement.long_requests is not None:
            self.placement.long_requests.keeper.finished(record, self.clock.now())
        if record["outcome"] != "unchanged":
            logger.info("transformation %s", record)
            self.metrics.count(record)
            self.metrics.show_layout(self.operations.layout.degrees)
            self.calibration.finished(record)
            self.show_limits()

    def show_limits(self) -> None:
        """Tell the front end what the layout can hold now, and place what waited to know."""
        self.send_to_front_end(LimitsChanged(limits=asdict(self.placement.limits)))
        self.placement.place_held()

    def send_order(self, order: Order) -> None:
        message = TransformOrder(
            phase=order.phase,
            operation_id=order.operation_id,
            epoch=order.epoch,
            ranks=list(order.ranks),
            before=list(order.before),
            after=list(order.after),
        )
        for rank in order.ranks:
            self.send_to_worker(rank, message)

    def reach_degree(self, degree: int) -> None:
        """Bring a fresh server to `--amoeba-initial-degree` before it reports that it is ready."""
        for first in range(0, self.config.workers, degree):
            ranks = tuple(range(first, first + degree))
            request = TransformRequest(ranks, degree, f"initial-{first}", wait=False)
            effects = self.operations.submit(request, "", self.clock.now())
            self.apply([effect for effect in effects if not isinstance(effect, Answer)])
            while self.operations.running is not None:
                self.receive_reports(100)
                self.on_tick()
            result = self.operations.history[-1]
            if result["outcome"] != "done":
                raise ConfigError(f"--amoeba-initial-degree {degree}: {result['error']}")

    # Called by upstream's event loop

    def on_tick(self) -> None:
        now = self.clock.now()
        self.apply(self.operations.tick(now))
        self.guard.check()
        self.placement.expire()
        self.cache_flush.tick()
        if self.placement.long_requests is not None:
            self.follow_requests(self.placement.long_requests, now)

    def follow_requests(self, long_requests: LongRequests, now: float) -> None:
        """Place what has room, and start the transformation that the rules want."""
        self.refresh_load_budget()
        long_requests.expire(now)
        long_requests.keeper.table = self.calibration.table
        long_requests.admit(now)
        transform = long_requests.keeper.next_change(self.load_book.loads, now)
        for request in long_requests.no_longer_long():
            self.placement.place_again(request)
        if transform is not None:
            effects = self.operations.submit(transform, "", now)
            self.apply([effect for effect in effects if not isinstance(effect, Answer)])

    def on_worker_death(self, dp_rank: int | None, exitcode: int | None) -> None:
        self.guard.worker_died(dp_rank, exitcode)
