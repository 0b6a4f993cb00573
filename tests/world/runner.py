"""Runs histories of one Setting, each in a fork, so that all start from the same workers."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.world.events import History
from tests.world.play import Play
from tests.world.schedulers import Built
from tests.world.surroundings import WorldClock

# Real seconds after which a history is broken: it plays some 100 times faster.
_LIMIT_S = 600


@dataclass
class Outcome:
    """What one history did. `kind`, `detail`: of the violation, empty without one; "broken" if the
    fork itself failed. `cpu`: seconds of the processor; `virtual`: of the history."""

    seed: str
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


def run(built: Built, history: History, traced: bool = False) -> Outcome:
    """Play a history in a child of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        _play(built, history, traced, write)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        return Outcome(history.seed, "broken", f"the child ended with status {status}")
    return Outcome(**json.loads(text))


def _play(built: Built, history: History, traced: bool, write: int) -> None:
    """In the child; does not return."""
    code = 1
    try:
        if not traced:
            logging.disable(logging.CRITICAL)
        faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
        started = time.process_time()
        virtual_time()
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
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(asdict(outcome)))
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def virtual_time() -> None:
    """Let all that asks the module `time` have the virtual time, upstream's scheduler first of all;
    for a process that does nothing else. `process_time` stays real."""
    clock = WorldClock()
    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, clock.now)
        setattr(time, f"{name}_ns", lambda: int(clock.now() * 1e9))
    time.sleep = clock.sleep  # type: ignore[assignment]
