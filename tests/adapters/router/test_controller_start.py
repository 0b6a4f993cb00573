"""How a router starts: what it asks its workers, and the degree that it begins with."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import zmq
from sglang.srt.managers.data_parallel_controller import DataParallelController

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.router import controller as module
from amoeba_sglang.adapters.router.controller import ElasticController
from amoeba_sglang.adapters.worker.router_link import RouterLink
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.reports import Done, TransformReport, Vote
from amoeba_sglang.errors import ConfigError
from tests.control.router.values import CAPACITY

INFO = {"capacity": asdict(CAPACITY), "max_rows": 64, "max_queued": None}


class Router(ElasticController):
    """With workers that answer every order; `refuses`: whether they vote no."""

    def __init__(self, server_args, port_args, refuses=False):
        self.orders, self.reads, self.refuses, self.link = [], 0, refuses, None
        self.to_front_end = []
        super().__init__(server_args, port_args)

    def send_to_worker(self, rank, message):
        self.link = self.link or RouterLink(self.config.report_address)
        assert isinstance(message, TransformOrder)
        self.orders.append((rank, message.phase, message.operation_id))
        epoch = message.epoch
        if message.phase == "prepare":
            reason = "full" if self.refuses else ""
            self.link.send(Vote(rank=rank, epoch=epoch, accept=not reason, reason=reason))
        elif message.phase == "commit":
            self.link.send(Done(rank=rank, epoch=epoch, report=TransformReport(moves=1)))

    def send_to_front_end(self, message):
        self.to_front_end.append(message)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Makes a router of four workers."""
    context = zmq.Context()
    infos = [dict(INFO) for _ in range(4)]
    made = []

    class Guard:
        """Notes that it watches."""

        def __init__(self, controller, config, address):
            self.watches, self.checks, self.died = False, 0, []
            self.front_end = f"socket of {address}"

        def watch(self):
            self.watches = True

        def check(self):
            self.checks += 1

        def worker_died(self, rank, code):
            self.died.append((rank, code))

    def init(self, server_args, port_args, *args, **kwargs):
        self.context, self.poll_sources = context, {}
        self._scheduler_init_infos, self._last_refresh_time = infos, 0.0
        self.load_snapshot_reader = SimpleNamespace(read_all=self.read_all)

    def read_all(self):
        self.reads += 1
        return [
            SimpleNamespace(
                dp_rank=rank, timestamp=self.clock.wall(), num_running_reqs=rank,
                num_waiting_reqs=0, num_total_tokens=0, num_waiting_uncached_tokens=0,
                num_used_tokens=0, max_total_num_tokens=100,
            )
            for rank in range(4)
        ]  # fmt: skip

    monkeypatch.setattr(DataParallelController, "__init__", init)
    monkeypatch.setattr(DataParallelController, "get_init_info", lambda self: {"status": "ready"})
    monkeypatch.setattr(module, "Guard", Guard)
    serving = SimpleNamespace(allow_auto_truncate=False)
    monkeypatch.setattr(module, "get_serving", lambda: serving)
    monkeypatch.setattr(module, "get_observability", lambda: SimpleNamespace(enable_metrics=False))
    monkeypatch.setattr(Router, "read_all", read_all, raising=False)

    def make(degree=1, **options):
        config = AmoebaConfig(
            4, 1, (1, 2, 4), 30, 100, str(tmp_path), initial_degree=degree, policy="static"
        )
        server_args, ports = SimpleNamespace(_amoeba=config, device="cpu"), SimpleNamespace()
        ports.tokenizer_ipc_name = "ipc://front"
        made.append(Router(server_args, ports, **options))
        return made[-1]

    make.infos = infos
    yield make
    context.destroy(linger=0)


def test_workers_alone_are_ready_without_an_order(start):
    router = start()
    assert router.orders == [] and router.guard.watches
    # Whoever first looked when a request came would see no load ever.
    assert router.reads == 1 and router.poll_sources[router.reports] == router.drain_reports
    assert router.front_end == "socket of ipc://front"
    info = router.get_init_info()
    assert info == {"status": "ready", "request_limits": asdict(router.desk.limits)}


def test_all_blocks_reach_the_initial_degree_one_after_the_other(start):
    router = start(degree=2)
    assert router.desk.operations.layout.degrees == (2, 2, 2, 2)
    phases = [(phase, rank) for rank, phase, _ in router.orders]
    assert phases == [
        ("prepare", 0), ("prepare", 1), ("commit", 0), ("commit", 1),
        ("prepare", 2), ("prepare", 3), ("commit", 2), ("commit", 3),
    ]  # fmt: skip
    assert {name for _, _, name in router.orders} == {"initial-0", "initial-2"}


def test_an_initial_degree_that_cannot_be_is_an_error_of_the_flag(start):
    with pytest.raises(ConfigError, match="--amoeba-initial-degree 4: .*full"):
        start(degree=4, refuses=True)


def test_workers_that_hold_different_amounts_are_a_bug(start):
    start.infos[2]["capacity"] = INFO["capacity"] | {"slots": 99}
    with pytest.raises(AssertionError):
        start()


def test_a_tick_looks_after_workers_and_loads(start):
    router, moment = start(), [1000.0]
    router.clock = SimpleNamespace(now=lambda: moment[0], wall=lambda: 0.0, since=lambda wall: 0.0)
    router.on_tick()
    assert (router.guard.checks, router.reads) == (1, 2)
    assert [load.running for load in router.desk.books.loads.loads] == [0, 1, 2, 3]
    # Not again at once: a read costs a look at every worker's file.
    router.on_tick()
    assert router.reads == 2
    moment[0] += 0.03
    router.on_tick()
    assert router.reads == 3


def test_a_death_is_the_guard_s(start):
    router = start()
    router.on_worker_death(2, -9)
    assert router.guard.died == [(2, -9)]
