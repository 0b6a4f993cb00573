"""What a command's screen shows, and how Ctrl-C ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A server with a child, both of which say where they are; told to end, it takes a moment.
SERVER = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def end(*_):
    child.kill()
    print("ending in order", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("noise\\n" * 100, flush=True)
print(f"Ready at {child.pid}", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("Ready at nothing", flush=True)
time.sleep(60)
"""


def start(log: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tools.screen"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(log: Path, *command: str, ready: str | None = None) -> tuple[int, list[str]]:
    options = ["--ready", ready] if ready else []
    screen = start(log, *options, "Title", str(log), "--", *command)
    output, _ = screen.communicate(timeout=30)
    return screen.returncode, output.splitlines()


def python(script: str) -> tuple[str, ...]:
    return sys.executable, "-c", script


def test_success_is_one_line_and_the_rest_is_in_the_log(tmp_path):
    log = tmp_path / "new" / "log"
    code, lines = run(log, *python("print('a\\n' * 100)"))
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("Title: done in ")
    assert log.read_text().count("a\n") == 100


def test_failure_shows_everything(tmp_path):
    log = tmp_path / "log"
    code, lines = run(
        log, *python("import os; os.write(1, b'one\\n'); os.write(2, b'two'); exit(7)")
    )
    assert code == 7
    assert lines[:2] == ["one", "two"]
    assert lines[2].startswith("Title: ended with code 7 after ")
    assert lines[2].endswith(f"log: {log}")


def test_missing_program_and_killed_one_have_the_codes_of_a_shell(tmp_path):
    code, lines = run(tmp_path / "log", "no-such-program")
    assert (code, lines) == (127, ["error: no-such-program: No such file or directory"])
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run(tmp_path / "log", *python(kill))[0] == 137


def test_ready_line_is_first_and_what_follows_is_shown(tmp_path):
    script = "print('noise\\n' * 200 + 'Ready at x\\nmore'); import sys; sys.exit(3)"
    code, lines = run(tmp_path / "log", *python(script), ready="Ready at")
    assert code == 3
    assert lines[0] == "Ready at x"
    assert str(tmp_path / "log") in lines[1]
    assert lines[2] == "more"
    assert lines[3].startswith("Title: ended with code 3")
    assert len(lines) == 4


def test_server_that_ends_before_it_is_ready_shows_everything(tmp_path):
    code, lines = run(tmp_path / "log", *python("print('usage')"), ready="Ready at")
    assert code == 0
    assert lines[0] == "usage"


def wait_ready(screen: subprocess.Popen) -> str:
    line = screen.stdout.readline()
    assert line.startswith("Ready at "), line
    return line.split()[-1]


def is_alive(pid: str) -> bool:
    """A killed process takes its time to end, and then waits for its parent to hear of it."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_server_in_order_and_leaves_nothing(tmp_path, signum):
    log = tmp_path / "log"
    screen = start(log, "--ready", "Ready at", "Title", str(log), "--", *python(SERVER))
    child = wait_ready(screen)
    screen.send_signal(signum)
    screen.communicate(timeout=30)
    assert screen.returncode == 0
    assert log.read_text().endswith("ending in order\n")
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline, f"process {child} lives on"
        time.sleep(0.05)


def test_signal_before_readiness_is_a_failure(tmp_path):
    log = tmp_path / "log"
    screen = start(log, "Title", str(log), "--", *python(SERVER))
    while not (log.exists() and "Ready at" in log.read_text()):
        time.sleep(0.05)
    screen.send_signal(signal.SIGINT)
    screen.communicate(timeout=30)
    assert screen.returncode == 128 + signal.SIGINT


def test_second_signal_kills(tmp_path):
    log = tmp_path / "log"
    screen = start(log, "--ready", "Ready at", "Title", str(log), "--", *python(STUBBORN))
    wait_ready(screen)
    screen.stdout.readline()
    screen.send_signal(signal.SIGINT)
    assert "ending" in screen.stdout.readline()
    os.kill(screen.pid, signal.SIGINT)
    # Half of what it would take by itself.
    screen.communicate(timeout=30)
