"""What the guard takes for the loss of a worker, with processes that only have a number."""

import signal
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.router import guard
from amoeba_sglang.adapters.router.guard import Guard
from amoeba_sglang.host import process_state


class Ended(Exception):
    """In the place of the end of the process."""


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A guard over ranks 0 and 1, started in the wrong order; `stopped` process ids; `clock`."""
    before = signal.getsignal(signal.SIGQUIT), signal.getsignal(signal.SIGINT)
    made = SimpleNamespace(stopped=set(), now=100.0)
    monkeypatch.setattr(process_state, "is_stopped", made.stopped.__contains__)
    monkeypatch.setattr(guard.time, "monotonic", lambda: made.now)
    workers = [SimpleNamespace(pid=11, sentinel=1), SimpleNamespace(pid=10, sentinel=0)]
    controller = SimpleNamespace(scheduler_procs=workers, worker_sentinels={0: 0, 1: 1})
    config = SimpleNamespace(freeze_timeout_s=8.0)
    made.guard = Guard(controller, config, f"ipc://{tmp_path}/front-end")
    made.guard.watch()

    def end(reason):
        raise Ended(reason)

    monkeypatch.setattr(made.guard, "end_server", end)
    yield made
    made.guard.front_end.close(0)
    signal.signal(signal.SIGQUIT, before[0])
    signal.signal(signal.SIGINT, before[1])


def test_a_worker_that_is_silent_but_not_stopped_is_no_failure(world):
    for _ in range(10):
        world.now += 60.0
        world.guard.check()


def test_a_worker_that_stays_stopped_ends_the_server_within_ten_seconds(world):
    world.guard.check()
    world.stopped.add(11)
    started = world.now
    with pytest.raises(Ended, match=r"ranks \[1\] are frozen: stopped for 8 s"):
        while world.now < started + 10:
            world.now += 0.1
            world.guard.check()
    assert world.now > started + 8


def test_a_worker_that_goes_on_in_time_is_no_failure(world):
    world.stopped.add(10)
    world.guard.check()
    world.now += 7.0
    world.guard.check()
    world.stopped.clear()
    world.guard.check()
    world.stopped.add(10)
    world.now += 7.0
    world.guard.check()


def test_workers_may_be_stopped_when_the_server_ends_anyway(world):
    world.stopped.add(10)
    world.guard.check()
    world.guard.stopping = True
    world.now += 60.0
    world.guard.check()


def test_a_watchdog_s_signal_ends_the_server(world):
    world.guard._on_sigquit(signal.SIGQUIT, None)
    with pytest.raises(Ended, match="raised an exception"):
        world.guard.check()
