"""Runs histories, each in a fork, so that all of one Setting start from the same workers."""

import faulthandler
import gc
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from tests.world.events import History

# Seconds of the processor after which a history has no end, some 30 times what they take, and real
# ones after which it is broken: nothing happens any more.
_CPU_LIMIT_S, _LIMIT_S = 150, 3600
NO_END = "no end"


@dataclass
class Outcome:
    """What one history of `workers` did. `kind`, `detail`: of the violation, empty without one;
    "broken" if the run itself failed. `cpu`: seconds of the processor; `virtual`: of the history.
    """

    seed: str
    workers: int = 0
    kind: str = ""
    detail: str = ""
    text: str = ""
    digest: str = ""
    cpu: float = 0.0
    virtual: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return self.kind == "broken"

    @property
    def sentence(self) -> str:
        return f"{self.kind}: {' '.join(self.detail.split())}" if self.kind else "clean"


class EndlessError(Exception):
    """A history went on and on."""


class Child:
    """A fork of this process that runs `act` and sends what it returns, as JSON."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.read, write = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if not self._pid:
            os.close(self.read)
            _run_child(act, write)
        os.close(write)

    def result(self) -> Any:
        """Wait for it; EndlessError if its time of the processor was over, RuntimeError if it
        failed."""
        with os.fdopen(self.read) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            raise EndlessError
        if status or not text:
            raise RuntimeError(f"a child ended with status {status}, see above")
        return json.loads(text)


def _run_child(act: Callable[[], Any], write: int) -> NoReturn:
    code = 1
    try:
        text = json.dumps(act())
        with os.fdopen(write, "w") as pipe:
            pipe.write(text)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_all(
    built: Any, histories: Iterable[History], jobs: int = 1, traced: bool = False
) -> Iterator[Outcome]:
    """Play histories, `jobs` at a time, in the order in which they end."""
    left, running = iter(histories), {}
    while True:
        while len(running) < jobs and (history := next(left, None)) is not None:
            child = Child(lambda history=history: _play(built, history, traced))
            running[child.read] = history, child
        if not running:
            return
        ready, _, _ = select.select(list(running), [], [])
        for read in ready:
            history, child = running.pop(read)
            try:
                yield Outcome(**child.result())
            except EndlessError:
                detail = f"more than {_CPU_LIMIT_S} s of the processor"
                yield Outcome(history.seed, kind=NO_END, detail=detail, cpu=_CPU_LIMIT_S)
            except RuntimeError as error:
                yield Outcome(history.seed, kind="broken", detail=str(error))


def run(built: Any, history: History, traced: bool = False) -> Outcome:
    """Play one history."""
    [outcome] = run_all(built, [history], traced=traced)
    return outcome


def _play(built: Any, history: History, traced: bool) -> dict[str, Any]:
    """In a fork: the fields of an Outcome."""
    from tests.world.play import Play

    logging.disable(logging.CRITICAL)
    faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
    faulthandler.register(signal.SIGXCPU, chain=True)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S + 10))
    started = time.process_time()
    virtual_time()
    # Nothing of a history must be gone before it is over.
    gc.disable()
    play = Play(built, history, traced).run()
    outcome = Outcome(
        history.seed,
        digest=play.digest,
        cpu=round(time.process_time() - started, 3),
        virtual=round(play.loop.now, 3),
        counts={name: count for name, count in play.counts.items() if count},
        trace=play.trace,
    )
    if play.found is not None:
        outcome.kind, outcome.detail = play.found.kind, play.found.detail
        outcome.text = play.found.text
    return asdict(outcome)


def virtual_time() -> None:
    """Let all that asks the module `time` have the virtual time, upstream's scheduler first of all;
    for a process that does nothing else. `process_time` stays real."""
    from tests.world.surroundings import WorldClock

    clock = WorldClock()
    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, clock.now)
        setattr(time, f"{name}_ns", lambda: int(clock.now() * 1e9))
    time.sleep = clock.sleep  # type: ignore[assignment]
