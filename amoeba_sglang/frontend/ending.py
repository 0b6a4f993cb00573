"""How the HTTP process notices that it must end, and how it ends."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import psutil

from amoeba_sglang.host.process_state import FreezeWatch

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_REAP_SECONDS = 3.0


async def watch_children(freeze_timeout_s: float, fail: Callable[[str], None]) -> None:
    """Call `fail` once the router or the detokenizer has been stopped for `freeze_timeout_s`.

    Upstream's watchdog sees their death.
    """
    freezes = FreezeWatch(freeze_timeout_s - _LOOK_SECONDS)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        pids = [child.pid for child in multiprocessing.active_children()]
        for pid in freezes.frozen(pids, time.monotonic()):
            fail(f"process {pid} of the server is frozen")
            return


def end_start(signum: int, frame: Any) -> NoReturn:
    """SIGQUIT handler while the server starts: unwind, so that the launcher cleans up."""
    raise SystemExit(1)


def kill_children() -> None:
    """SIGKILL every descendant of this process, and no other, and wait until they are gone."""
    children = psutil.Process().children(recursive=True)
    victims = [child for child in children if not _is_tracker(child)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    deadline = time.monotonic() + _REAP_SECONDS
    # Orphaned grandchildren are not ours to reap: as zombies they have ended.
    while any(map(_is_alive, victims)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_tracker(child: psutil.Process) -> bool:
    """Python's resource tracker removes the named semaphores of the killed, then ends itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("multiprocessing.resource_tracker" in word for word in child.cmdline())
    return False


def remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def end_process(load_file: str, run_directory: str) -> NoReturn:
    """End this process with code 1, without its children and without what they leave behind."""
    kill_children()
    remove_file(load_file)
    shutil.rmtree(run_directory, ignore_errors=True)
    common = sys.modules["sglang.srt.utils.common"]
    directory = getattr(common, "prometheus_multiproc_dir", None)
    if directory is not None:
        directory.cleanup()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)
