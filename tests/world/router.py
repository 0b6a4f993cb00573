"""The real router, without its sockets and processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.policy import POLICIES
from amoeba_sglang.router.calibration import Calibration
from amoeba_sglang.router.controller import ElasticController
from amoeba_sglang.router.loads import LoadBook
from amoeba_sglang.router.metrics import NoMetrics
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.waiting_limits import WaitingLimits


class WorldRouter(ElasticController):
    """`play`: where its messages go."""

    def __init__(self, play: Any, config: Any, worker: Any) -> None:
        self.play, self.config, self.clock = play, config, worker.clock
        self.chain, self.capacity = DegreeChain(config.degrees), worker.capacity
        self.load_book = LoadBook(config.workers, self.clock.wall)
        self.calibration = Calibration(self.capacity, worker.max_running_requests, None)
        self.emulation_times = {}
        self.operations = Operations(
            self.chain,
            Layout.uniform(config.workers, 1),
            config.layers,
            config.prepare_timeout_s,
            config.finish_timeout_s,
        )
        self.metrics = NoMetrics()
        self.workers = [object()] * config.workers
        self._active_workers, self.control_message_step = list(range(config.workers)), 1
        self.load_snapshot_reader = SimpleNamespace(read_all=lambda: list(play.snapshots.values()))
        self._last_refresh_time = 0.0
        self.waiting_limits = WaitingLimits(config.workers)
        self.placement = self.make_placement()
        rules = POLICIES[config.policy].layout
        if rules is not None:
            self.placement.follow_rules(rules, self.chain, 1)
        self.cache_flush = self.make_cache_flush()
        self.guard = SimpleNamespace(stopping=False, end_server=play.end_server, check=lambda: None)

    def place(self, request: Any) -> None:
        self.placement.place(request)

    def finish(self, record: dict[str, Any]) -> None:
        super().finish(record)
        self.play.counts[f"{record['kind']}s {record['outcome']}"] += 1

    def send_to_worker(self, rank: int, message: Any) -> None:
        self.play.send(rank, message)

    def send_control_message(self, message: Any) -> None:
        for rank in range(self.config.workers):
            self.play.send(rank, message)

    def send_to_front_end(self, message: Any) -> None:
        self.play.to_client(message)
