"""What stands in the place of a worker's sockets."""

from types import SimpleNamespace
from typing import Any

import zmq

from tests.world.stage import STAGE


class Inbox:
    """In the place of a PULL socket."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def recv_pyobj(self, flags: int = 0) -> Any:
        if not self.messages:
            raise zmq.Again
        return self.messages.pop(0)

    def recv(self, flags: int = 0, **options: Any) -> Any:
        raise zmq.Again


class Outbox:
    """In the place of upstream's sender to front end and detokenizer."""

    socket = None

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def send_output(self, output: Any, recv_obj: Any = None) -> None:
        STAGE.play.from_worker(self._rank, output)


class Snapshots:
    """In the place of the writer of load snapshots."""

    publish_counter, publish_interval = 0, 4

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def write(self, load: Any) -> None:
        STAGE.play.snapshots[self._rank] = load


class Sleeper:
    """In the place of the idle poller."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.poller = SimpleNamespace(register=lambda *args: None)

    def maybe_sleep(self) -> None:
        if not self._scheduler.inbox.messages and not self._scheduler.runtime.bell.tags:
            STAGE.loop.current.park("poll", timeout=1.0)
