"""Ends the whole server, clients first, when a worker dies, freezes or fails."""

import logging
import os
import signal
import threading
import time
from multiprocessing import connection
from typing import Any, NoReturn

import zmq
from sglang.srt.managers.io_struct import sock_send

from amoeba_sglang.adapters.messages import Fatal
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.host.process_state import FreezeWatch

logger = logging.getLogger(__name__)

_REAP_SECONDS = 2.0
_FLUSH_SECONDS = 0.2


class Guard:
    """Watches the workers of `controller`: process ends, freezes, and exceptions they signal.

    A worker that raises sends SIGQUIT to its parent, which by default would only kill the router.
    So does SGLang's watchdog for a worker that has a batch and does not finish its forward.
    """

    def __init__(self, controller: Any, config: AmoebaConfig, front_end_address: str) -> None:
        self.stopping = False
        self._controller = controller
        self._freeze_timeout_s = config.freeze_timeout_s
        self._freezes = FreezeWatch(config.freeze_timeout_s)
        self._raised = False
        self._serving = threading.Event()
        self.front_end = zmq.Context.instance().socket(zmq.PUSH)
        self.front_end.setsockopt(zmq.SNDHWM, 0)
        self.front_end.connect(front_end_address)
        signal.signal(signal.SIGQUIT, self._on_sigquit)
        # Ctrl-C reaches the whole foreground group; only the HTTP process decides what it means.
        # The workers inherit this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._watch_start, name="amoeba-start", daemon=True).start()

    def watch(self) -> None:
        """The workers are up: from here on the event loop looks after them."""
        self._serving.set()

    def check(self) -> None:
        """End the server if a worker is frozen or has raised; called at least every 100 ms."""
        if self._raised and not self.stopping:
            self.end_server("a worker raised an exception, see the log")
        ranks = self._ranks_by_pid()
        frozen = sorted(ranks[pid] for pid in self._freezes.frozen(ranks, time.monotonic()))
        if frozen and not self.stopping:
            self.end_server(
                f"ranks {frozen} are frozen: stopped for {self._freeze_timeout_s:g} s by a signal "
                "or a debugger"
            )

    def _ranks_by_pid(self) -> dict[int, int]:
        ranks = self._controller.worker_sentinels
        return {worker.pid: ranks[worker.sentinel] for worker in self._controller.scheduler_procs}

    def worker_died(self, rank: int | None, exitcode: int | None) -> None:
        """A worker's process ended, or does not take messages."""
        if self.stopping:
            # The event loop sees the dead process again at once until it is stopped as well.
            time.sleep(0.05)
            return
        if self._raised or exitcode == 0:
            self.end_server(f"worker {rank} raised an exception, see the log")
        self.end_server(f"worker {rank} died with exit code {exitcode}")

    def end_server(self, reason: str) -> NoReturn:
        """Tell the HTTP process, kill and reap the workers, and end this process with code 1."""
        logger.error("the server ends: %s", reason)
        if threading.current_thread() is threading.main_thread():
            # The surviving workers' own exceptions come next and add nothing.
            signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        sock_send(self.front_end, Fatal(reason=reason), flags=zmq.NOBLOCK)
        workers = self._controller.scheduler_procs
        for worker in workers:
            worker.kill()
        deadline = time.monotonic() + _REAP_SECONDS
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        # ZMQ writes from a thread of its own.
        time.sleep(_FLUSH_SECONDS)
        os._exit(1)

    def _on_sigquit(self, signum: int, frame: Any) -> None:
        # While serving, the event loop acts: it may be in the middle of using a socket now.
        self._raised = True
        if not self._serving.is_set():
            self.end_server("a worker raised an exception while it started, see the log")

    def _watch_start(self) -> None:
        """While workers load, the main thread waits for them without looking whether they live."""
        while not self._serving.wait(0.1):
            sentinels = dict(getattr(self._controller, "worker_sentinels", {}))
            dead = connection.wait(list(sentinels), timeout=0.4) if sentinels else []
            # A worker that raises exits too, a moment after its signal says so better.
            if dead and not self._serving.wait(1.0):
                self.end_server(f"worker {sentinels[dead[0]]} died while it started")
