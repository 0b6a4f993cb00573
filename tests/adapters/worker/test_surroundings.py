"""What a worker process is connected to."""

import select
import threading
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.worker import surroundings as module
from amoeba_sglang.adapters.worker.router_link import RouterLink
from amoeba_sglang.adapters.worker.surroundings import LiveSurroundings


@pytest.fixture
def live(tmp_path):
    config = SimpleNamespace(
        run_directory=str(tmp_path), report_address=f"ipc://{tmp_path}/reports", dilation=4.0
    )
    return LiveSurroundings(config, CpuBackend())


def test_the_clock_is_the_server_s(live, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    assert live.clock.now() == 25.0


def test_workers_of_one_server_wake_each_other(live):
    bells = [live.bell(rank) for rank in range(2)]
    bells[0].ring([1], (3, 4))
    poller = select.poll()
    poller.register(bells[1].fileno(), select.POLLIN)
    assert poller.poll(0)
    assert bells[1].rung((3, 4)) and not bells[0].rung((3, 4))
    for bell in bells:
        bell.close()


def test_copies_have_one_thread_of_their_own(live):
    with live.helper() as helper:
        names = {helper.submit(lambda: threading.current_thread().name).result() for _ in range(3)}
    assert names == {"amoeba-copies_0"}


def test_the_line_to_the_router_is_a_socket(live):
    assert isinstance(live.link(0), RouterLink)


def test_groups_and_words_are_those_of_the_world(live, monkeypatch):
    asked = []

    def create(*args):
        asked.append(args)
        return "groups"

    monkeypatch.setattr(module.Groups, "create", create)
    monkeypatch.setattr(module, "share_words", lambda config: f"words of {config.run_directory}")
    assert live.connect("chain", "progress") == "groups"
    assert asked == [(live._config, "chain", "progress")]
    assert live.share_words().startswith("words of ")
