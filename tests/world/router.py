"""The real router, without its sockets and processes."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.io_struct import AbortReq

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.router import translation
from amoeba_sglang.adapters.router.controller import ElasticController
from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.router import effects
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.events import Arrival, Opened
from amoeba_sglang.control.router.metrics import NoMetrics
from amoeba_sglang.control.router.operation import Operations
from tests.world.violation import Violation


class WorldRouter(ElasticController):
    """`play`: where its messages go; `worker`: any of its workers."""

    def __init__(self, play: Any, config: Any, worker: Any) -> None:
        self.play, self.config, self.clock = play, config, worker.clock
        self._came: dict[str, float] = {}
        self._aborted: set[str] = set()
        info = {
            "capacity": asdict(worker.capacity),
            "max_rows": worker.max_running_requests,
            "max_queued": worker.max_queued_requests,
        }
        terms = translation.to_terms(config, choose_backend("cpu", None), info, truncates=False)
        self.desk = Desk(terms, Layout.uniform(config.workers, 1), self.clock.now())
        self.metrics, self._last_refresh_time = NoMetrics(), 0.0
        self.guard = SimpleNamespace(stopping=False, end_server=play.end_server, check=lambda: None)
        self.load_snapshot_reader = SimpleNamespace(read_all=lambda: [*play.snapshots.values()])

    @property
    def operations(self) -> Operations:
        return self.desk.operations

    def open(self) -> None:
        self.tell(Opened())

    def arrive(self, request: Any) -> None:
        self._came[request.rid] = self.play.loop.now
        self.tell(Arrival(translation.to_request(request)))

    def handle_judged(self, message: Any) -> None:
        super().handle_judged(message)
        if isinstance(message, AbortReq):
            everybody = [client.rid for client in self.play.clients.open]
            self._aborted.update(everybody if message.abort_all else [message.rid])

    def carry_out(self, effect: effects.Effect) -> None:
        super().carry_out(effect)
        rare, now = self.play.rare, self.play.loop.now
        match effect:
            case effects.Finished():
                rare.see_record(effect.record)
            case effects.Send():
                if effect.request.rid in self._aborted:
                    raise Violation("an aborted request is sent to a worker", effect.request.rid)
                came = self._came.pop(effect.request.rid)
                rare.count("held by the router, then placed", came < now)
            case effects.Cancel():
                rare.count("aborted at the router")

    def send_to_worker(self, rank: int, message: Any) -> None:
        self.play.send(rank, message)

    def send_control_message(self, message: Any) -> None:
        for rank in range(self.config.workers):
            self.play.send(rank, message)

    def send_to_front_end(self, message: Any) -> None:
        self.play.to_client(message)
