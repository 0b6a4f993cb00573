import os
import signal
import subprocess
import sys
import time

import pytest

from amoeba_sglang.host import process_state
from amoeba_sglang.host.process_state import FreezeWatch, is_stopped


@pytest.fixture
def stopped(monkeypatch):
    """Process ids that the kernel is made to call stopped."""
    pids = set()
    monkeypatch.setattr(process_state, "is_stopped", pids.__contains__)
    return pids


def test_only_a_process_that_stays_stopped_is_frozen(stopped):
    watch = FreezeWatch(8.0)
    assert watch.frozen([1, 2, 3], 100.0) == []
    stopped |= {1, 3}
    assert watch.frozen([1, 2, 3], 101.0) == []
    stopped -= {1}
    assert watch.frozen([1, 2, 3], 105.0) == []
    stopped |= {1}
    assert watch.frozen([1, 2, 3], 106.0) == []
    assert watch.frozen([1, 2, 3], 109.0) == [3]
    assert watch.frozen([1, 2, 3], 114.0) == [1, 3]
    assert watch.frozen([1, 2], 115.0) == [1]


def test_a_process_that_says_nothing_is_never_frozen(stopped):
    watch = FreezeWatch(8.0)
    assert not any(watch.frozen([1], now) for now in (0.0, 10.0, 10_000.0))


def test_the_kernel_says_who_is_stopped():
    # A name that could be taken for a state.
    command = ["bash", "-c", "exec -a ') T (' sleep 60"]
    child = subprocess.Popen(command)
    try:
        assert not is_stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert is_stopped(child.pid)
        child.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 5
        while is_stopped(child.pid):
            assert time.monotonic() < deadline
    finally:
        child.kill()
        child.wait()
    assert not is_stopped(child.pid)


def test_a_process_that_holds_python_s_lock_is_not_stopped():
    """An exponential expression: no other thread of it runs meanwhile."""
    code = "import re; print(flush=True); re.match('(a+)+$', 'a' * 40 + 'b')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        time.sleep(0.2)
        assert not is_stopped(child.pid)
    finally:
        child.kill()
        child.communicate()
