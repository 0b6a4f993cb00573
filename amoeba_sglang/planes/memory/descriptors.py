"""File descriptors handed from process to process through a socket.

A descriptor of the CUDA driver cannot be opened again under /proc, and taking it out of another
process (pidfd_getfd) needs the right to trace it, which containers and many systems do not grant
between siblings. So its owner gives it away.
"""

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable

from amoeba_sglang.planes.memory.base import MemoryFault

BATCH = 128
"""Most descriptors in one answer; the kernel takes up to 253 in a message."""

_TIMEOUT_S = 30.0
_REQUEST = struct.Struct("=qq")
_CREDENTIALS = struct.Struct("=iII")


class DescriptorServer:
    """Owns descriptors under integer keys and gives copies to processes of the same user.

    `number` names its socket in this network namespace. One thread answers, in the order of the
    questions: a client that connects and says nothing keeps nobody waiting, one of another user is
    gone at once.
    """

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # To an empty name: the kernel picks a free one, a zero byte and five hexadecimal digits.
        self._listener.bind("")
        self._listener.listen()
        self._listener.setblocking(False)
        self.number = int(self._listener.getsockname()[1:], 16)
        self._thread = threading.Thread(target=self._serve, name="amoeba-descriptors", daemon=True)
        self._thread.start()

    def keys(self) -> set[int]:
        return set(self._descriptors)

    def add(self, key: int, descriptor: int) -> None:
        """Take a descriptor over."""
        assert key not in self._descriptors, key
        self._descriptors[key] = descriptor

    def drop(self, keys: Iterable[int]) -> None:
        """Close the descriptors of those keys that have one."""
        with self._lock:
            for key in keys:
                if key in self._descriptors:
                    os.close(self._descriptors.pop(key))

    def close(self) -> None:
        """End the thread and close all descriptors."""
        self._closing = True
        # Wakes the thread, which a close alone would leave in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.drop(self.keys())

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing:
                for key, _ in selector.select():
                    if key.fileobj is not self._listener:
                        selector.unregister(key.fileobj)
                        # A client that misbehaves or goes away is not our fault; it gets no answer.
                        with key.fileobj, contextlib.suppress(OSError, struct.error):
                            self._answer(key.fileobj)
                    elif (connection := self._accept()) is not None:
                        selector.register(connection, selectors.EVENT_READ)
            selector.unregister(self._listener)
            for key in selector.get_map().values():
                key.fileobj.close()

    def _accept(self) -> socket.socket | None:
        """A new client of this user."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # Closing, or this process has no descriptor left and the client has to wait.
            time.sleep(0 if self._closing else 0.1)
            return None
        connection.setblocking(False)
        if _credentials(connection)[1] == os.geteuid():
            return connection
        connection.close()
        return None

    def _answer(self, connection: socket.socket) -> None:
        first, count = _REQUEST.unpack(connection.recv(_REQUEST.size))
        # The lock keeps a dropped descriptor's number from being another file's by now.
        with self._lock:
            keys = range(first, first + count)
            found = [self._descriptors[key] for key in keys if key in self._descriptors]
            socket.send_fds(connection, [b"\0"], found)


def fetch_descriptors(pid: int, number: int, first: int, count: int) -> list[int]:
    """Copies of the descriptors with keys `first` .. `first + count - 1` of process `pid`.

    At most BATCH at once. The caller closes them. MemoryFault if the process is not there, is
    another user's or lacks one, or this process has too many files open.
    """
    assert 0 < count <= BATCH, count
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(f"\0{number:05x}")
            owner, user, _ = _credentials(connection)
            if (owner, user) != (pid, os.geteuid()):
                raise _unreachable(pid, f"its socket is that of process {owner} of user {user}")
            connection.sendall(_REQUEST.pack(first, count))
            answer, descriptors, _, _ = socket.recv_fds(connection, 1, count)
        except OSError as error:
            raise _unreachable(pid, error.strerror or str(error)) from error
    if not answer or len(descriptors) != count:
        for descriptor in descriptors:
            os.close(descriptor)
        raise _unreachable(
            pid,
            f"{len(descriptors)} file descriptors of {count} pages arrived; the limit of open "
            "files (`ulimit -n`) may be too low",
        )
    return descriptors


def _unreachable(pid: int, reason: str) -> MemoryFault:
    return MemoryFault(
        f"cannot open the memory of worker process {pid}: {reason}; all workers must run as the "
        f"same user in one PID and network namespace, else use --amoeba-transport collective"
    )


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(process, user, group) at the other end."""
    size = _CREDENTIALS.size
    return _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
