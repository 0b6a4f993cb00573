"""Wake-up calls between workers that sleep in a poller."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_TAG = struct.Struct("<qq")


class Bell:
    """A datagram socket per worker that others ring.

    The name lies in the abstract namespace: no file remains, and the name is free again when the
    process ends. `run_id` tells servers on one host apart. A tag is (epoch, step), each int64, and
    says what the ringer has seen; tags only order bells, the news itself travels elsewhere.
    A queue holds about ten bells (net.unix.max_dgram_qlen) and a full one drops the newer tag, so
    call `latest` at every wake-up, whatever caused it.
    """

    def __init__(self, run_id: str, rank: int) -> None:
        self._run_id = run_id
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self._address(rank))
        self._latest = (0, 0)

    def fileno(self) -> int:
        """Descriptor that is readable while a bell is unread."""
        return self._socket.fileno()

    def ring(self, ranks: Iterable[int], tag: tuple[int, int]) -> None:
        """Ring `ranks`. Never blocks; a full queue or an absent peer is no error."""
        datagram = _TAG.pack(*tag)
        for rank in ranks:
            try:
                self._socket.sendto(datagram, self._address(rank))
            except (BlockingIOError, ConnectionRefusedError):
                # Full: unread bells wake the peer already. Refused: nobody is there to wake.
                continue

    def latest(self) -> tuple[int, int]:
        """Drain the socket; the largest tag ever received, (0, 0) before the first."""
        while True:
            try:
                datagram = self._socket.recv(_TAG.size)
            except BlockingIOError:
                return self._latest
            self._latest = max(self._latest, _TAG.unpack(datagram))

    def close(self) -> None:
        self._socket.close()

    def _address(self, rank: int) -> str:
        return f"\0amoeba-{self._run_id}-{rank}"
