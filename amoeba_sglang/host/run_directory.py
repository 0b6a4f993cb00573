"""A directory of one server that only its user can enter: sockets and temporary files lie there."""

import atexit
import fcntl
import glob
import os
import shutil
import stat
import tempfile

from amoeba_sglang.errors import ConfigError

PREFIX = "amoeba-run-"

# The kernel takes socket names of up to 107 bytes. The longest below the directory is that of a
# listener of Python's multiprocessing, pymp-xxxxxxxx/listener-xxxxxxxx.
_LONGEST_NAME = 32
_LONGEST_SOCKET = 107


class RunDirectory:
    """Made by the launcher, with mode 0700. SGLang's sockets and temporary files go there as well.

    Whoever can write to one of a server's sockets can make it do anything, since SGLang unpickles
    what comes, and a name in the abstract namespace or a port is open to every user of the host.

    Removed when the server ends. The launcher holds a lock on it that goes with the process, so
    that the next start can tell, and remove, what a killed one has left.
    """

    def __init__(self) -> None:
        """Raises ConfigError where no such directory can be."""
        parent = tempfile.gettempdir()
        _require_fit(parent)
        remove_abandoned(parent)
        while True:
            try:
                self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            except OSError as error:
                raise ConfigError(
                    f"cannot make a directory for sockets in {parent}: {error.strerror}; "
                    "set TMPDIR to another place"
                ) from None
            lock = _lock(self.path)
            # Another server that starts may have taken it for abandoned before it was locked.
            if lock is not None:
                self._lock = lock
                break
        self._owner = os.getpid()
        atexit.register(self.remove)

    def adopt(self) -> None:
        """Let this process and its children put their temporary files, SGLang's sockets among
        them, there."""
        os.environ["TMPDIR"] = tempfile.tempdir = self.path

    def remove(self) -> None:
        """Remove it with all it holds. Calling it again, or in a forked process, does nothing."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(parent: str) -> None:
    """Remove this user's directories that no process holds."""
    for path in glob.glob(f"{glob.escape(parent)}/{PREFIX}*"):
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _require_fit(parent: str) -> None:
    longest = len(os.fsencode(parent)) + len(f"/{PREFIX}xxxxxxxx/") + _LONGEST_NAME
    if longest > _LONGEST_SOCKET:
        raise ConfigError(
            f"TMPDIR {parent}: sockets in it would have names of {longest} bytes, the kernel takes "
            f"{_LONGEST_SOCKET}; set TMPDIR to a shorter path"
        )
    mode = os.stat(parent).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"TMPDIR {parent}: every user may replace what is in it (it is writable for all, but "
            "not sticky); set TMPDIR to another place"
        )


def _lock(path: str) -> int | None:
    """A descriptor that locks the directory; None if it is another user's, locked or gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed it meanwhile.
            if os.path.isdir(path):
                return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
