"""The router process: upstream's controller with layouts, transformations and policies."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

import zmq
from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.io_struct import (
    AbortReq,
    ShutdownReq,
    UpdateWeightFromDiskReqInput,
    UpdateWeightFromDiskReqOutput,
    sock_recv,
    sock_send,
)
from sglang.srt.runtime_context import get_observability, get_serving
from sglang.utils import TypeBasedDispatcher

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
from amoeba_sglang.policy import POLICIES, RequestSize, View
from amoeba_sglang.router.answers import end, is_named_by, refuse
from amoeba_sglang.router.effects import Answer, Effect, Finished, Order
from amoeba_sglang.router.guard import Guard
from amoeba_sglang.router.limits import Capacity, RequestLimits, fits
from amoeba_sglang.router.loads import LoadBook
from amoeba_sglang.router.metrics import NoMetrics, RouterMetrics
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.state import describe_server
from amoeba_sglang.router.transform_request import TransformRequest

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 0.02


class ElasticController(DataParallelController):
    """Routes by policy, runs transformations, and ends the server when a worker is lost."""

    def __init__(self, server_args: Any, port_args: Any, *args: Any, **kwargs: Any) -> None:
        config: AmoebaConfig = server_args._amoeba
        self.config = config
        self.placed = 0
        self.load_book = LoadBook(config.workers)
        self.policy = POLICIES[config.policy]
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
        self.dispatching = self.place
        self.refresh_load_budget_on_dispatch = True
        self.capacity = Capacity(**self._scheduler_init_infos[0]["capacity"])
        assert all(
            info["capacity"] == self._scheduler_init_infos[0]["capacity"]
            for info in self._scheduler_init_infos
        ), self._scheduler_init_infos
        self.held: list[Any] = []
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
        self.metrics.show_layout(self.operations.layout.degrees)

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits.of_layout(self.capacity, self.operations.layout)

    def get_init_info(self) -> dict:
        return {**super().get_init_info(), "request_limits": asdict(self.limits)}

    def init_dispatcher(self) -> None:
        super().init_dispatcher()
        self._request_dispatcher += TypeBasedDispatcher(
            [
                (AdminRequest, self.handle_admin),
                (AbortReq, self.handle_abort),
                (UpdateWeightFromDiskReqInput, self.handle_weight_update),
                (ShutdownReq, self.handle_shutdown),
            ]
        )

    # Requests

    def refresh_load_budget(self) -> None:
        now = time.perf_counter()
        if now - self._last_refresh_time >= _REFRESH_SECONDS:
            self._last_refresh_time = now
            self.load_book.update(self.load_snapshot_reader.read_all())

    def place(self, request: Any) -> None:
        """Send one request to its home, or answer it with 400 if the layout cannot hold it.

        While a transformation decides whether a layout can, the request waits for its end.
        """
        size = RequestSize(len(request.input_ids or ()), request.sampling_params.max_new_tokens)
        wanted = request.routed_dp_rank
        if wanted is not None and not self.has_rank(wanted):
            self.reject_rank(request)
            return
        able = self.able_ranks(size)
        if wanted is not None:
            able = tuple(rank for rank in able if rank == wanted)
        if not able and self.operations.running is not None:
            self.held.append(request)
        elif not able:
            refusal = self.limits.refusal(size.prompt_tokens, size.output_tokens)
            self.reject(request, refusal or self.rank_refusal(wanted))
        else:
            rank = able[0] if wanted is not None else self.choose(request, size, able)
            self.send_to_worker(rank, request)
            self.load_book.add(rank, size.prompt_tokens)

    def able_ranks(self, size: RequestSize) -> tuple[int, ...]:
        """Ranks that can hold a request now and after the transformation that may be running."""
        if get_serving().allow_auto_truncate:
            return tuple(range(self.config.workers))
        layouts = (self.operations.layout, self.operations.target)
        limits = zip(*(self.capacity.by_rank(layout) for layout in layouts), strict=True)
        return tuple(
            rank
            for rank, tokens in enumerate(limits)
            if fits(size.prompt_tokens, size.output_tokens, min(tokens))
        )

    def choose(self, request: Any, size: RequestSize, able: tuple[int, ...]) -> int:
        """The rank that the policy picks of those that can hold the request."""
        layout = self.operations.layout
        view = View(layout.instances, self.load_book.loads, self.placed, able)
        decision = self.policy(size, view)
        self.placed += 1
        logger.debug("request %s goes to %s", request.rid, decision)
        return decision.rank

    def rank_refusal(self, rank: int) -> str:
        tokens = self.capacity.by_rank(self.operations.layout)[rank]
        return f"routed_dp_rank {rank} can hold requests of up to {tokens} tokens in this layout"

    def maybe_external_dp_rank_routing(self, request: Any) -> bool:
        """Upstream's, but a rank that does not exist is an error of the client alone."""
        rank = request.routed_dp_rank
        if rank is not None and not self.has_rank(rank):
            self.reject_rank(request)
            return True
        return super().maybe_external_dp_rank_routing(request)

    def has_rank(self, rank: int) -> bool:
        return 0 <= rank < self.config.workers

    def reject_rank(self, request: Any) -> None:
        last = self.config.workers - 1
        self.reject(request, f"routed_dp_rank {request.routed_dp_rank} is not in 0..{last}")

    def reject(self, request: Any, reason: str) -> None:
        sock_send(self.front_end, refuse(request, reason))

    def handle_abort(self, request: AbortReq) -> None:
        """A request that waits here is known to no worker yet."""
        held = self.held
        self.held = [waiting for waiting in held if not is_named_by(waiting, request)]
        for waiting in held:
            if is_named_by(waiting, request):
                sock_send(self.front_end, end(waiting, request.finished_reason))
        self.send_control_message(request)

    # Control messages

    def handle_weight_update(self, request: UpdateWeightFromDiskReqInput) -> None:
        """Weights are loaded by name into unsharded layers, so only at degree 1."""
        degrees = self.operations.layout.degrees
        running = self.operations.running
        if max(degrees) == 1 and running is None:
            self.send_control_message(request)
            return
        reason = (
            f"operation {running['operation_id']} is running"
            if running is not None
            else f"the degrees are {list(degrees)}"
        )
        message = f"weights can only be updated while every instance is at degree 1, but {reason}"
        for _ in range(self.config.workers):
            sock_send(self.front_end, UpdateWeightFromDiskReqOutput(success=False, message=message))

    def handle_shutdown(self, request: ShutdownReq) -> None:
        """From here on workers end because they were asked to."""
        self.guard.stopping = True
        self.send_control_message(request)

    def handle_admin(self, request: AdminRequest) -> None:
        """Answer `GET /amoeba/state`, or start a transformation."""
        assert request.rid is not None
        if request.kind == "state":
            snapshots = self.load_snapshot_reader.read_all()
            body = describe_server(self.config, self.operations, self.capacity, snapshots)
            self.apply([Answer(request.rid, 200, body)])
        else:
            transform = TransformRequest.from_body(request.body)
            self.apply(self.operations.submit(transform, request.rid, time.monotonic()))

    def drain_reports(self) -> None:
        """Take what workers have reported."""
        while True:
            try:
                report: WorkerReport = sock_recv(self.reports, flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            now = time.monotonic()
            self.guard.beats.beat(report.rank, now)
            if report.kind == "vote":
                accept, reason = report.body["accept"], report.body["reason"]
                self.apply(self.operations.vote(report.rank, report.epoch, accept, reason, now))
            elif report.kind == "progress":
                self.operations.progress(report.epoch, report.body, now)
            elif report.kind == "done":
                self.apply(self.operations.done(report.rank, report.epoch, report.body, now))

    def apply(self, effects: list[Effect]) -> None:
        """Carry out what the state machine decided."""
        for effect in effects:
            if isinstance(effect, Order):
                self.send_order(effect)
            elif isinstance(effect, Answer):
                reply = AdminReply(rid=effect.waiter, status=effect.status, body=effect.body)
                sock_send(self.front_end, reply)
            elif isinstance(effect, Finished):
                logger.info("transformation %s", effect.record)
                self.metrics.count(effect.record)
                self.metrics.show_layout(self.operations.layout.degrees)
                self.show_limits()
            else:
                self.guard.end_server(effect.reason)

    def show_limits(self) -> None:
        """Tell the front end what the layout can hold now, and place what waited to know."""
        sock_send(self.front_end, LimitsChanged(limits=asdict(self.limits)))
        held, self.held = self.held, []
        for request in held:
            self.place(request)

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
            effects = self.operations.submit(request, "", time.monotonic())
            self.apply([effect for effect in effects if not isinstance(effect, Answer)])
            while self.operations.running is not None:
                self.reports.poll(100)
                self.drain_reports()
                self.on_tick()
            result = self.operations.history[-1]
            if result["outcome"] != "done":
                raise ConfigError(f"--amoeba-initial-degree {degree}: {result['error']}")

    # Called by upstream's event loop

    def on_tick(self) -> None:
        self.apply(self.operations.tick(time.monotonic()))
        self.guard.check()

    def on_worker_death(self, dp_rank: int | None, exitcode: int | None) -> None:
        self.guard.worker_died(dp_rank, exitcode)
