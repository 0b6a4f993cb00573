"""A router without sockets and workers, and what is sent to it."""

from __future__ import annotations

from types import SimpleNamespace

from amoeba_sglang.clock import Clock
from amoeba_sglang.config import ModelHeads, build_config
from amoeba_sglang.flags import make_parser
from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import AdminRequest, WorkerReport
from amoeba_sglang.policy import POLICIES
from amoeba_sglang.router.calibration import Calibration
from amoeba_sglang.router.controller import ElasticController
from amoeba_sglang.router.limits import Capacity
from amoeba_sglang.router.loads import LoadBook
from amoeba_sglang.router.metrics import NoMetrics
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.waiting_limits import WaitingLimits


class Ended(Exception):
    """In the place of the end of the process."""


class Router(ElasticController):
    """Without sockets and workers: what it sends is kept."""

    def __init__(self, policy="round_robin", rules=False, clock=None):
        self.clock = clock or Clock()
        flags = make_parser().parse_args(["--amoeba-policy", policy])
        self.config = build_config(flags, 4, 1, ModelHeads(12, 4, 30, 1000, 2048), 1, "/run")
        self.chain = DegreeChain(self.config.degrees)
        self.capacity = Capacity(slots=100, context=1000, grown={1: 0, 2: 60, 4: 200}, page=1)
        self.load_book = LoadBook(4, self.clock.wall)
        self.calibration = Calibration(self.capacity, 64, None)
        self.emulation_times = {}
        self.operations = Operations(self.chain, Layout.uniform(4, 1), 30, 20.0, 120.0)
        self.metrics, self.front_end, self.reports = NoMetrics(), [], []
        self.waiting_limits = WaitingLimits(4)
        self.to_workers, self.workers, self._active_workers = [], [object()] * 4, [0, 1, 2, 3]
        self.load_snapshot_reader, self._last_refresh_time = SimpleNamespace(read_all=list), 0.0
        self.placement = self.make_placement()
        if rules:
            self.placement.follow_rules(POLICIES[policy].layout, self.chain, 1)
        self.cache_flush = self.make_cache_flush()
        self.guard = SimpleNamespace(stopping=False, end_server=self.end_server)

    def end_server(self, reason):
        raise Ended(reason)

    def place(self, request):
        self.placement.place(request)

    def send_to_worker(self, rank, message):
        self.to_workers.append((rank, message))

    def send_control_message(self, message):
        self.to_workers += [(rank, message) for rank in self._active_workers]

    def receive_reports(self, milliseconds):
        self.drain_reports()

    def report(self, kind, rank, epoch, **body):
        self.reports.append(WorkerReport(kind=kind, rank=rank, epoch=epoch, body=body))
        self.drain_reports()


def request(prompt=10, output=4, rank=None, rid="r"):
    return SimpleNamespace(
        rid=rid,
        http_worker_ipc=None,
        input_ids=[1] * prompt,
        sampling_params=SimpleNamespace(max_new_tokens=output),
        routed_dp_rank=rank,
    )


def transform(router, ranks, degree, rid="w", operation_id="op"):
    body = {"ranks": ranks, "degree": degree, "operation_id": operation_id, "wait": True}
    router.handle_admin(AdminRequest(rid=rid, kind="transform", body=body))


def vote(router, *ranks, epoch=1):
    for rank in ranks:
        router.report("vote", rank, epoch, accept=True, reason="")


def done(router, *ranks, epoch=1, error=""):
    for rank in ranks:
        router.report(
            "done",
            rank,
            epoch,
            error=error,
            step_seconds=0.0,
            lockstep_seconds=0.0,
            longest_step_seconds=0.0,
            moves=1,
            pause_seconds=0.0,
            settle_seconds=0.0,
            copy_seconds=0.0,
            pace="",
            bytes_moved={"kv": 1, "weights": 0},
        )
