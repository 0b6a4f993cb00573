"""Wake-up calls between workers that sleep in a poller."""

import socket
import struct
from collections.abc import Iterable

_TAG = struct.Struct("<qq")


class Bell:
    """A datagram socket per worker that others ring.

    It is a file in `directory`, whose permissions say who can ring. A tag is (epoch, step), each
    int64, and says what the ringer is about to enter; tags only tell bells apart, the news itself
    travels elsewhere. A queue holds about ten bells (net.unix.max_dgram_qlen) and a full one drops
    the newer tag, so call `rung` at every wake-up, whatever caused it.
    """

    def __init__(self, directory: str, rank: int) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self._address(rank))

    def fileno(self) -> int:
        """Descriptor that is readable while a bell is unread."""
        return self._socket.fileno()

    def ring(self, ranks: Iterable[int], tag: tuple[int, int]) -> None:
        """Ring `ranks`. Never blocks; a full queue or an absent peer is no error."""
        datagram = _TAG.pack(*tag)
        for rank in ranks:
            try:
                self._socket.sendto(datagram, self._address(rank))
            except (BlockingIOError, ConnectionRefusedError, FileNotFoundError):
                # Full: unread bells wake the peer already. Else nobody is there to wake.
                continue

    def rung(self, tag: tuple[int, int]) -> bool:
        """Drain the socket; whether somebody rang with exactly this tag since the last time.

        Exactly: a tag that nobody can have rung with yet must not count forever after.
        """
        wanted, found = _TAG.pack(*tag), False
        while True:
            try:
                # One byte more than a tag: a longer datagram must not pass for its beginning.
                found |= self._socket.recv(_TAG.size + 1) == wanted
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()

    def _address(self, rank: int) -> str:
        return f"{self._directory}/bell-{rank}"
