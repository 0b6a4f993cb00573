"""A worker's line to the router: reports, and a heartbeat from a thread of its own."""

from __future__ import annotations

import threading
from typing import Any

import zmq
from sglang.srt.managers.io_struct import sock_send

from amoeba_sglang.messages import WorkerReport

BEAT_SECONDS = 1.0


class RouterLink:
    """PUSH sockets to the router. The heartbeat proves that the process is not frozen."""

    def __init__(self, address: str, rank: int) -> None:
        self.rank = rank
        self._address = address
        self._context = zmq.Context.instance()
        self._socket = self._connect()
        threading.Thread(target=self._beat, name="amoeba-heartbeat", daemon=True).start()

    def _connect(self) -> zmq.Socket:
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._address)
        return socket

    def report(self, kind: str, operation_id: str, epoch: int, body: dict[str, Any]) -> None:
        """Send one WorkerReport from the scheduler's thread."""
        message = WorkerReport(
            kind=kind, rank=self.rank, operation_id=operation_id, epoch=epoch, body=body
        )
        sock_send(self._socket, message)

    def _beat(self) -> None:
        socket = self._connect()
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            sock_send(socket, WorkerReport(kind="beat", rank=self.rank))
