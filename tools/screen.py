"""Run a command behind a screen that a person can read. Needs no package but Python.

    python -m tools.screen [--ready TEXT] TITLE LOG -- COMMAND...

What COMMAND prints goes to LOG; the screen shows for how long it runs and its newest line. A
failure shows all of LOG. With --ready COMMAND is a server: the line that starts with TEXT is shown
and all that follows it. Ctrl-C ends COMMAND and everything that it started.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TextIO

_LOOK_SECONDS = 0.2
_END_SECONDS = 20.0
_FIRST_NOTE_SECONDS = 10.0
_NOTE_GROWTH = 1.5


class Ended(BaseException):
    """A signal asks to end; not an Exception, like KeyboardInterrupt."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


class Progress:
    """One line that is rewritten on a terminal; elsewhere notes, each later than the one before."""

    def __init__(self, title: str) -> None:
        self.title, self.started = title, time.monotonic()
        self._live = sys.stdout.isatty()
        self._next = 0.0 if self._live else _FIRST_NOTE_SECONDS

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def show(self, newest: str) -> None:
        if self.seconds < self._next:
            return
        width = shutil.get_terminal_size((100, 24)).columns - 1
        line = f"{self.title}: {self.seconds:.0f} s  {newest}"[:width].rstrip()
        if self._live:
            print(f"\r{line}\x1b[K", end="", flush=True)
        else:
            print(line, flush=True)
            self._next *= _NOTE_GROWTH

    def say(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)


class Screen:
    """One command, its log and what is shown of it."""

    def __init__(self, title: str, log: Path, ready: str | None, command: list[str]) -> None:
        self._progress = Progress(title)
        self._log, self._ready, self._command = log, ready, command
        self._is_ready = False

    def run(self) -> int:
        """The exit code of the command, 127 if there is none; 0 for a server that was told to
        end.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as output:
            try:
                # A session of its own: Ctrl-C reaches this process alone, which ends the others in
                # order.
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )
            except OSError as error:
                self._progress.say(f"error: {self._command[0]}: {error.strerror}")
                return 127
        try:
            with self._log.open(errors="replace") as log:
                self._follow(process, log)
        except Ended as ended:
            handle_signals(lambda signum, frame: kill(process))
            self._progress.say(f"{self._progress.title}: ending, Ctrl-C again kills it")
            return 0 if self._is_ready else ended.code
        finally:
            end(process)
        return self._report(process.returncode)

    def _follow(self, process: subprocess.Popen, log: TextIO) -> None:
        newest, rest, running = "", "", True
        while running:
            # Looked at before the log: what a process wrote is there when it has ended.
            running = process.poll() is None
            *lines, rest = (rest + log.read()).split("\n")
            if rest and not running:
                lines.append(rest)
            for line in lines:
                newest = line.strip() or newest
                self._take(line)
            if running:
                if not self._is_ready:
                    self._progress.show(newest)
                time.sleep(_LOOK_SECONDS)

    def _take(self, line: str) -> None:
        if self._is_ready:
            print(line, flush=True)
        elif self._ready is not None and line.startswith(self._ready):
            self._is_ready = True
            self._progress.say(line)
            print(f"Ctrl-C ends it. Its log is {self._log}, and goes on here:", flush=True)

    def _report(self, code: int) -> int:
        progress = self._progress
        took = f"{progress.seconds:.0f} s"
        if code == 0 and not self._ready:
            progress.say(f"{progress.title}: done in {took}")
            return 0
        if not self._is_ready:
            progress.say(self._log.read_text(errors="replace").rstrip("\n"))
        print(f"{progress.title}: ended with code {code} after {took}; log: {self._log}")
        return code if code >= 0 else 128 - code


def end(process: subprocess.Popen) -> None:
    """Ask the process to end, and kill its group when that takes long."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        process.wait()


def kill(process: subprocess.Popen) -> None:
    """SIGKILL the process and whatever it started that is still of its group."""
    # Once it has been waited for, its number may be another's.
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, handler)


def _raise_ended(signum: int, frame: FrameType | None) -> None:
    raise Ended(signum)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.screen")
    parser.add_argument("--ready", metavar="TEXT")
    parser.add_argument("title", metavar="TITLE")
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(argv)
    handle_signals(_raise_ended)
    return Screen(options.title, options.log, options.ready, options.command).run()


if __name__ == "__main__":
    sys.exit(main())
