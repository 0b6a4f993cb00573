"""Nobody but the user of a server reaches its sockets, and nothing of the directory remains."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zmq

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.host.run_directory import PREFIX, RunDirectory
from amoeba_sglang.planes.transport import Bell

NOBODY = 65534


@pytest.fixture
def parent():
    """A directory for temporary files like /tmp, which every user can enter."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        os.chmod(made, 0o1777)
        tempfile.tempdir = made
        yield Path(made)
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR", None)
        if before[1] is not None:
            os.environ["TMPDIR"] = before[1]


def test_it_is_the_user_s_alone_and_goes_when_told(parent):
    directory = RunDirectory()
    assert Path(directory.path).parent == parent
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    Path(directory.path, "left").touch()
    directory.remove()
    directory.remove()
    assert list(parent.iterdir()) == []


def test_temporary_files_and_so_sglang_s_sockets_go_there(parent):
    directory = RunDirectory()
    directory.adopt()
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == Path(directory.path)
    script = "import tempfile; print(tempfile.gettempdir())"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.stdout.strip() == directory.path
    directory.remove()


STARTS = """
import os, signal, sys, time
from amoeba_sglang.host.run_directory import RunDirectory
print(RunDirectory().path, flush=True)
{end}
"""


def start(parent, end):
    return subprocess.Popen(
        [sys.executable, "-c", STARTS.format(end=end)],
        env={**os.environ, "TMPDIR": str(parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_ends_takes_it_along(parent):
    for end in ("sys.exit(3)", "1 / 0"):
        process = start(parent, end)
        process.communicate(timeout=30)
        assert process.returncode
        assert list(parent.iterdir()) == []


def test_the_next_start_removes_what_a_killed_one_left_and_nothing_else(parent):
    killed, living = (start(parent, "time.sleep(60)") for _ in range(2))
    try:
        left, used = (Path(process.stdout.readline().strip()) for process in (killed, living))
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        assert left.is_dir()
        (parent / "other").mkdir()
        directory = RunDirectory()
        assert sorted(parent.iterdir()) == sorted([Path(directory.path), used, parent / "other"])
        directory.remove()
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_directory_of_another_user_is_left_alone(parent):
    other = parent / f"{PREFIX}other"
    other.mkdir()
    os.chown(other, NOBODY, NOBODY)
    RunDirectory().remove()
    assert other.is_dir()


def test_a_place_that_cannot_be_used_is_an_error_that_says_why(parent, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(parent / ("long" * 15)))
    with pytest.raises(ConfigError, match="names of 1.. bytes, the kernel takes 107"):
        RunDirectory()
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    os.chmod(parent, 0o777)
    with pytest.raises(ConfigError, match="writable for all, but not sticky"):
        RunDirectory()
    os.chmod(parent, 0o700)
    monkeypatch.setattr(tempfile, "mkdtemp", _refuse)
    with pytest.raises(ConfigError, match=f"sockets in {parent}: Permission denied; set TMPDIR"):
        RunDirectory()


def _refuse(**_):
    raise PermissionError(13, "Permission denied")


def as_nobody(act):
    """What `act()` returns, which is text, in a process of the user nobody."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, act().encode())
        finally:
            # Whatever happens: an exception would go on to run the other tests in this process.
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mask", [0o022, 0])
def test_another_user_reaches_neither_reports_nor_bells_nor_sglang_s_sockets(parent, mask):
    def reach() -> str:
        kinds = {"reports": socket.SOCK_STREAM, "tmp": socket.SOCK_STREAM, "bell-0": 2}
        results = []
        for name, kind in kinds.items():
            with socket.socket(socket.AF_UNIX, kind) as stranger:
                try:
                    stranger.connect(f"{directory.path}/{name}")
                    results.append(f"reached {name}")
                except OSError as error:
                    results.append(error.strerror)
        with open("/proc/net/unix") as table:
            results += [line for line in table if f"@{directory.path}" in line or "@amoeba" in line]
        return ", ".join(results)

    before = os.umask(mask)
    context, directory = zmq.Context(), RunDirectory()
    try:
        sockets = [context.socket(zmq.PULL) for _ in range(2)]
        for pull, name in zip(sockets, ("reports", "tmp"), strict=True):
            pull.bind(f"ipc://{directory.path}/{name}")
        bell = Bell(directory.path, 0)
        assert reach().startswith("reached reports, reached tmp, reached bell-0")
        assert as_nobody(reach) == ", ".join(["Permission denied"] * 3)
        bell.close()
    finally:
        os.umask(before)
        context.destroy(linger=0)
        directory.remove()
