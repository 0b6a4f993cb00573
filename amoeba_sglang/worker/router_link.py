"""A worker's line to the router."""

from __future__ import annotations

from typing import Any

import zmq
from sglang.srt.managers.io_struct import sock_send

from amoeba_sglang.messages import WorkerReport


class RouterLink:
    """A PUSH socket to the router."""

    def __init__(self, address: str, rank: int) -> None:
        self.rank = rank
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def report(self, kind: str, operation_id: str, epoch: int, body: dict[str, Any]) -> None:
        """Send one WorkerReport."""
        message = WorkerReport(
            kind=kind, rank=self.rank, operation_id=operation_id, epoch=epoch, body=body
        )
        sock_send(self._socket, message)
