"""A worker's line to the router."""

import zmq
from sglang.srt.managers.io_struct import sock_send

from amoeba_sglang.adapters.messages import WorkerReport
from amoeba_sglang.control.reports import Report


class RouterLink:
    """A PUSH socket to the router."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def send(self, report: Report) -> None:
        """Tell the router something."""
        sock_send(self._socket, WorkerReport(report=report))
