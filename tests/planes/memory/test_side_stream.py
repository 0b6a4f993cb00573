"""Copies beside computation, on a stand-in for streams that runs nothing before it must."""

import threading
from contextlib import contextmanager

import pytest

from amoeba_sglang.planes.memory.side_stream import SideStream


class Stream:
    """Launched work, in order; `run` is what a real stream does by itself, sooner or later."""

    def __init__(self, device):
        self.work, self.done = [], 0

    def launch(self, act):
        self.work.append(act)

    def wait_event(self, event):
        stream, position = event.recorded
        self.launch(lambda: stream.run(position))

    def run(self, end):
        while self.done < end:
            act = self.work[self.done]
            self.done += 1
            act()

    def synchronize(self):
        self.run(len(self.work))


class Event:
    def record(self, stream):
        self.recorded = stream, len(stream.work)

    def synchronize(self):
        stream, position = self.recorded
        stream.run(position)


class StreamsStandIn:
    """Of torch.cuda: a current stream by thread, the default one at first."""

    Stream, Event = Stream, Event

    def __init__(self):
        self.default, self._current = Stream("gpu"), threading.local()

    def current_stream(self, device=None):
        return getattr(self._current, "stream", self.default)

    @contextmanager
    def stream(self, stream):
        before, self._current.stream = self.current_stream(), stream
        yield
        self._current.stream = before


@pytest.fixture
def cuda():
    return StreamsStandIn()


@pytest.fixture
def side(cuda):
    with SideStream("gpu", cuda) as side:
        yield side


def test_copies_begin_after_what_computes_already(cuda, side):
    seen = []
    cuda.default.launch(lambda: seen.append("old degree"))
    side.submit(lambda: cuda.current_stream().launch(lambda: seen.append("copy"))).result(5)
    assert seen == ["old degree", "copy"]


def test_the_host_acts_after_what_computes_already(cuda, side):
    """It unmaps, and the driver does not wait for kernels."""
    seen = []
    cuda.default.launch(lambda: seen.append("old degree"))
    side.submit(lambda: seen.append("unmap")).result(5)
    assert seen == ["old degree", "unmap"]


def test_copies_do_not_wait_for_what_computes_from_now_on(cuda, side):
    """Else nothing would overlap."""
    go, seen = threading.Event(), []

    def copy():
        assert go.wait(5)
        cuda.current_stream().launch(lambda: seen.append("copy"))

    copied = side.submit(copy)
    cuda.default.launch(lambda: seen.append("other layers"))
    go.set()
    copied.result(5)
    assert seen == ["copy"]
    cuda.default.synchronize()
    assert seen == ["copy", "other layers"]


def test_a_future_is_done_when_its_copies_are(cuda, side):
    seen = []

    def copy():
        for number in range(3):
            cuda.current_stream().launch(lambda number=number: seen.append(number))
        return "bytes"

    assert side.submit(copy).result(5) == "bytes"
    assert seen == [0, 1, 2] and not cuda.default.work


def test_copies_before_a_failure_end_before_it_is_told(cuda, side):
    """Whoever hears of it undoes them at once."""
    seen = []

    def copy():
        cuda.current_stream().launch(lambda: seen.append("copy"))
        raise MemoryError("no page")

    with pytest.raises(MemoryError):
        side.submit(copy).result(5)
    assert seen == ["copy"]


def test_submissions_run_one_after_the_other(cuda, side):
    seen = []
    tasks = [side.submit(seen.append, number) for number in range(20)]
    for task in tasks:
        task.result(5)
    assert seen == list(range(20))
