"""How a server ends: clients are told why first, then no worker is left."""

import signal
from types import SimpleNamespace

import pytest
import zmq
from sglang.srt.managers.io_struct import sock_recv

from amoeba_sglang.adapters.router import guard as module
from amoeba_sglang.adapters.router.guard import Guard


class Exit(BaseException):
    """In the place of os._exit."""


class Process:
    """`stubborn` seconds pass until it has been joined."""

    def __init__(self, log, rank):
        self.log, self.pid, self.sentinel = log, 100 + rank, rank

    def kill(self):
        self.log.append(("kill", self.sentinel))

    def join(self, timeout):
        assert 0 <= timeout <= 2.0
        self.log.append(("join", self.sentinel))


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A guard over two workers, and the front end's end of its socket."""
    before = signal.getsignal(signal.SIGQUIT), signal.getsignal(signal.SIGINT)
    made = SimpleNamespace(log=[], started=[])
    front_end = zmq.Context.instance().socket(zmq.PULL)
    front_end.bind(f"ipc://{tmp_path}/front-end")
    workers = [Process(made.log, rank) for rank in range(2)]
    made.controller = SimpleNamespace(scheduler_procs=workers, worker_sentinels={0: 0, 1: 1})

    def leave(code):
        made.log.append(("exit", code))
        raise Exit

    thread = SimpleNamespace(start=lambda: made.started.append(True))
    monkeypatch.setattr(module.threading, "Thread", lambda **options: thread)
    monkeypatch.setattr(module.os, "_exit", leave)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: made.log.append("sleep"))
    config = SimpleNamespace(freeze_timeout_s=8.0)
    made.guard = Guard(made.controller, config, f"ipc://{tmp_path}/front-end")
    made.reason = lambda: sock_recv(front_end).reason if front_end.poll(5000) else None
    yield made
    made.guard.front_end.close(0)
    front_end.close(0)
    signal.signal(signal.SIGQUIT, before[0])
    signal.signal(signal.SIGINT, before[1])


def test_clients_are_told_then_workers_are_reaped(world):
    with pytest.raises(Exit):
        world.guard.end_server("no way on")
    assert world.reason() == "no way on"
    kills, joins = [("kill", 0), ("kill", 1)], [("join", 0), ("join", 1)]
    # Time for the message to leave.
    assert world.log == [*kills, *joins, "sleep", ("exit", 1)]
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (False, -9, "worker 1 died with exit code -9"),
        (False, 0, "worker 1 raised an exception, see the log"),
        (True, -9, "worker 1 raised an exception, see the log"),
    ],
)
def test_a_worker_that_dies_ends_the_server_with_what_is_known(world, raised, code, says):
    world.guard.watch()
    world.guard._raised = raised
    with pytest.raises(Exit):
        world.guard.worker_died(1, code)
    assert world.reason() == says


def test_workers_that_were_asked_to_end_may_die(world):
    world.guard.stopping = True
    world.guard.worker_died(0, 0)
    # The event loop sees the same death again at once.
    assert world.log == ["sleep"]


def test_ctrl_c_is_the_front_end_s_to_judge(world):
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert world.started == [True]


def test_a_worker_that_raises_while_it_starts_ends_the_server_at_once(world):
    """The event loop does not run yet."""
    with pytest.raises(Exit):
        world.guard._on_sigquit(signal.SIGQUIT, None)
    assert world.reason() == "a worker raised an exception while it started, see the log"


def test_a_worker_that_dies_while_it_starts_ends_the_server(world, monkeypatch):
    looks = []

    def wait(sentinels, timeout):
        looks.append(sentinels)
        return [1] if len(looks) > 2 else []

    monkeypatch.setattr(module.connection, "wait", wait)
    world.guard._serving = SimpleNamespace(wait=lambda seconds: False)
    with pytest.raises(Exit):
        world.guard._watch_start()
    assert world.reason() == "worker 1 died while it started" and looks[0] == [0, 1]


def test_once_it_serves_the_start_is_not_watched_any_more(world, monkeypatch):
    """A worker whose death is seen at the same moment is the event loop's."""
    monkeypatch.setattr(module.connection, "wait", lambda sentinels, timeout: [0])
    answers = iter([False, True, True])
    world.guard._serving = SimpleNamespace(wait=lambda seconds: next(answers))
    world.guard._watch_start()
    assert world.log == []


def test_before_there_are_workers_nobody_can_die(world, monkeypatch):
    del world.controller.worker_sentinels
    answers = iter([False, True])
    world.guard._serving = SimpleNamespace(wait=lambda seconds: next(answers))
    world.guard._watch_start()
    assert world.log == []
