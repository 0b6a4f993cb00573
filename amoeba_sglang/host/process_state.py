"""What the kernel says about other processes: whether they are stopped."""

from collections.abc import Iterable


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal or a debugger; one that is gone is not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return False
    # The name before the state stands in parentheses and may hold any byte.
    return text[text.rindex(b")") + 2 :][:1] in (b"T", b"t")


class FreezeWatch:
    """Finds processes that have been stopped for `limit_s` seconds.

    A process that says nothing is not taken for frozen: exporting a profile, or matching a
    regular expression, can hold Python's lock for as long as it likes.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[int, float] = {}

    def frozen(self, pids: Iterable[int], now: float) -> list[int]:
        """Those of `pids` that were stopped at every look in the last `limit_s` seconds."""
        stopped = [pid for pid in pids if is_stopped(pid)]
        self._since = {pid: self._since.get(pid, now) for pid in stopped}
        return [pid for pid in stopped if now - self._since[pid] >= self._limit_s]
