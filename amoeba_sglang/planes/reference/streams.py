"""torch.cuda's streams and events of the REFERENCE device, which refuse what a GPU would race on.

A kernel has computed when it was launched, and counts as running until somebody has waited for it:
no GPU is later. Whoever then uses its memory on another stream that did not wait, unmaps it, or
tells peers that they may have it, gets a Race. `AMOEBA_REFERENCE_OMIT` names waits of this package
that are left out, as "function:wait", to see that each is needed.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OMIT = "AMOEBA_REFERENCE_OMIT"
_PACKAGE = Path(__file__).parents[2]
# Whoever calls these waits, not they.
_PASSED_ON = ("synchronize", "wait")
_BETWEEN = (_PACKAGE / "planes/reference", _PACKAGE / "planes/device")


class Race(AssertionError):
    """Memory is used while a kernel that touches it may still be running."""


@dataclass(frozen=True)
class Touch:
    """Bytes [start, stop) that a kernel reads, or also writes."""

    start: int
    stop: int
    writes: bool

    def conflicts(self, other: "Touch") -> bool:
        overlaps = self.start < other.stop and other.start < self.stop
        return overlaps and (self.writes or other.writes)


class Stream:
    """In order within itself. `running`: by what is touched, the last kernel that does, as its
    number and name, while nobody has waited for it. `knows`: by stream, up to which number its
    kernels have run before what is launched here next."""

    def __init__(self, streams: "Streams") -> None:
        self.launched = 0
        self.running: dict[Touch, tuple[int, str]] = {}
        self.knows: dict[Stream, int] = {}
        self._streams = streams

    def synchronize(self) -> None:
        if self._streams.waits("Stream.synchronize"):
            self._streams.finish({self: self.launched})

    def wait_stream(self, other: "Stream") -> None:
        if self._streams.waits("Stream.wait_stream"):
            self._follow(other.seen())

    def wait_event(self, event: "Event") -> None:
        if self._streams.waits("Stream.wait_event"):
            self._follow(event.seen)

    def seen(self) -> dict["Stream", int]:
        """All that has run when what is launched here now has."""
        return {**self.knows, self: self.launched}

    def _follow(self, seen: dict["Stream", int]) -> None:
        for stream, number in seen.items():
            self.knows[stream] = max(number, self.knows.get(stream, 0))


class Event:
    """When something that was launched has run."""

    def __init__(self, streams: "Streams") -> None:
        self.seen: dict[Stream, int] = {}
        self._streams = streams

    def record(self, stream: Stream | None = None) -> None:
        self.seen = (stream or self._streams.current_stream()).seen()

    def synchronize(self) -> None:
        if self._streams.waits("Event.synchronize"):
            self._streams.finish(self.seen)


class StreamContext:
    """As often as wanted, like torch's."""

    def __init__(self, streams: "Streams", stream: Stream) -> None:
        self._streams, self._stream = streams, stream
        self._before: list[Stream] = []

    def __enter__(self) -> None:
        self._before.append(self._streams.enter(self._stream))

    def __exit__(self, *error: object) -> None:
        self._streams.enter(self._before.pop())


class Streams:
    """Of one process, in the place of torch.cuda.

    recorder: sees what a thread launches, from when it first chooses a stream on. kernels:
    those that touch memory of the driver, by name; waited: waits by theirs.
    """

    def __init__(self) -> None:
        self.recorder: AbstractContextManager = nullcontext()
        self.kernels: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self._omitted = set(filter(None, os.environ.get(OMIT, "").split(",")))
        self._lock = threading.RLock()
        self._all: list[Stream] = []
        self._default, self._current = self.Stream(), threading.local()

    def Stream(self, device: Any = None, priority: int = 0) -> Stream:  # noqa: N802
        self._all.append(Stream(self))
        return self._all[-1]

    def Event(self) -> Event:  # noqa: N802
        return Event(self)

    def current_stream(self, device: Any = None) -> Stream:
        return getattr(self._current, "stream", self._default)

    def set_device(self, device: Any) -> None:
        """There is one."""

    def set_stream(self, stream: Stream) -> None:
        self.enter(stream)

    def stream(self, stream: Stream) -> "StreamContext":
        return StreamContext(self, stream)

    def enter(self, stream: Stream) -> Stream:
        """Let this thread launch on `stream`, and be seen; returns on which it did."""
        before, self._current.stream = self.current_stream(), stream
        if not getattr(self._current, "seen", False):
            self._current.seen = True
            self.recorder.__enter__()
        return before

    def synchronize(self, device: Any = None) -> None:
        if self.waits("synchronize"):
            self.finish({stream: stream.launched for stream in self._all})

    def empty_cache(self) -> None:
        """Nothing is kept of what was freed."""

    # What the memory and the kernels of the device say

    def launch(self, name: str, touches: Sequence[Touch]) -> None:
        """A kernel starts on the current stream."""
        mine = self.current_stream()
        with self._lock:
            for touch in touches:
                for other in self._all:
                    if other is not mine:
                        self._require_order(name, touch, other, mine.knows.get(other, 0))
            mine.launched += 1
            for touch in touches:
                mine.running[touch] = mine.launched, name
            self.kernels[name] += 1

    def require_rest(self, start: int, size: int, what: str) -> None:
        """The host does `what` to these bytes now, for which no kernel may run."""
        touch = Touch(start, start + size, writes=True)
        with self._lock:
            for stream in self._all:
                self._require_order(what, touch, stream, 0)

    def require_told(self, what: str) -> None:
        """Peers may rely on `what` now: all that was launched on the current stream has run."""
        with self._lock:
            for number, name in self.current_stream().running.values():
                raise Race(f"{what} while kernel {number}, {name}, of its stream runs")

    def waits(self, how: str) -> bool:
        """Whether the wait that is asked for happens; notes it by its name."""
        name = _name_of_wait(how)
        if name is None:
            return True
        self.waited[name] += 1
        return name not in self._omitted

    def finish(self, seen: dict[Stream, int]) -> None:
        """The host has waited for all of these."""
        with self._lock:
            for stream, number in seen.items():
                running = stream.running
                for touch in [t for t, (last, _) in running.items() if last <= number]:
                    del running[touch]

    def _require_order(self, what: str, touch: Touch, stream: Stream, known: int) -> None:
        for other, (number, name) in stream.running.items():
            if number > known and touch.conflicts(other):
                raise Race(
                    f"{what} of [{touch.start:#x}, {touch.stop:#x}) while kernel {number}, {name}, "
                    "of another stream runs"
                )


def _is_between(file: str) -> bool:
    return any(folder in Path(file).parents for folder in _BETWEEN)


def _name_of_wait(how: str) -> str | None:
    """Of the code that waits, if it is of this package; not that which stands for torch.cuda."""
    frame = sys._getframe(3)
    while frame.f_code.co_name in _PASSED_ON or _is_between(frame.f_code.co_filename):
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_qualname}:{how}" if _PACKAGE in Path(code.co_filename).parents else None
