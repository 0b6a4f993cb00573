"""One fault of one worker of a running server, and everything that can be seen of it."""

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from tests.serving.fault_clients import OUTPUT_TOKENS, Ending, Remains, ask_after, strike_under_load
from tests.serving.servers import Server

SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
CLIENT_LIMIT_S = {"kill": 2.0, "freeze": 10.0}
EXIT_LIMIT_S = {"kill": 10.0, "freeze": 18.0}
MOMENTS = ("idle", "busy", "joint idle", "joint busy", "transformation")
FLAGS = (
    "--dtype", "float32", "--max-total-tokens", "4096", "--chunked-prefill-size", "512",
    "--amoeba-policy", "static",
)  # fmt: skip
# Together they fit into a pool, so the long prompt is not queued.
PREFILL_TOKENS = 1500
SHORT_OUTPUT = 900
COMMIT_WAIT_S = 30.0


@dataclass
class Aftermath:
    """Times in seconds after the fault. `clients`: name, seconds, status, error of each."""

    moment: str
    fault: str
    clients: list[dict[str, Any]]
    exit_seconds: float | None
    exit_code: int | None
    processes_left: list[str]
    files_left: list[str]
    notes: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What the server owes its clients and does not hold; empty when all is well."""
        limit = CLIENT_LIMIT_S[self.fault]
        found = []
        for client in self.clients:
            if not client["error"]:
                found.append(f"{client['name']}: good answer after {client['seconds']:.1f} s")
            elif client["error"] == "no end" or client["seconds"] > limit:
                found.append(f"{client['name']}: {client['error']} at {client['seconds']:.1f} s")
            elif 0 < client["status"] != 200 and client["status"] < 500:
                found.append(f"{client['name']}: status {client['status']}")
        if self.exit_code in (0, None):
            found.append(f"exit code {self.exit_code}")
        found += [f"process left: {process}" for process in self.processes_left]
        found += [f"file left: {file}" for file in self.files_left]
        return found

    def figures(self) -> dict[str, Any]:
        return {**asdict(self), "problems": self.problems()}


def strike(server: Server, rank: int, fault: str) -> float:
    """Send the signal to one worker; the monotonic time of it."""
    server.workers()[rank].send_signal(SIGNALS[fault])
    return time.monotonic()


def merge_all(server: Server, workers: int) -> None:
    status, reply = server.transform(list(range(workers)), workers)
    assert status == 200, reply


def run_fault(
    server: Server, workers: int, moment: str, fault: str, tokens: int = OUTPUT_TOKENS
) -> Aftermath:
    """Bring a server at degree 1 to `moment`, strike its last worker, and watch the end.

    `tokens`: that busy clients ask for, whose requests must fit into the pools together.
    """
    rank, limit = workers - 1, CLIENT_LIMIT_S[fault] + 5
    notes: dict[str, Any] = {}
    if moment.startswith("joint"):
        merge_all(server, workers)
    remains = Remains(server)
    ranks = list(range(workers))
    if moment.endswith("idle"):
        time.sleep(1.0)
        when, endings = asyncio.run(ask_after(server, rank, strike(server, rank, fault), limit))
    elif moment == "transformation":
        hit = _InTransformation(server, workers, fault, notes)
        load = strike_under_load(server, ranks, hit, limit, SHORT_OUTPUT)
        when, endings = asyncio.run(load)
    else:
        hit_now = partial(strike, server, rank, fault)
        load = strike_under_load(server, ranks, hit_now, limit, tokens)
        when, endings = asyncio.run(load)
    return _watch_end(server, remains, moment, fault, when, endings, notes)


def _watch_end(
    server: Server, remains: Remains, moment: str, fault: str, when: float,
    endings: list[Ending], notes: dict[str, Any],
) -> Aftermath:  # fmt: skip
    left = when + EXIT_LIMIT_S[fault] - time.monotonic()
    try:
        code: int | None = server.process.wait(max(left, 0.1))
        seconds: float | None = time.monotonic() - when
    except subprocess.TimeoutExpired:
        code = seconds = None
    clients = [
        {"name": e.name, "seconds": e.when - when, "status": e.status, "error": e.error}
        for e in endings
    ]
    return Aftermath(
        moment, fault, clients, seconds, code, remains.processes(), remains.files(), notes
    )


class _InTransformation:
    """Strikes between COMMIT and the last report, as `GET /amoeba/state` shows it.

    A long prompt keeps the victim in a step of its own while its peers wait for it.
    """

    def __init__(self, server: Server, workers: int, fault: str, notes: dict[str, Any]) -> None:
        self.server, self.workers, self.fault, self.notes = server, workers, fault, notes

    def __call__(self) -> float:
        victim = self.workers - 1
        self._in_background(lambda: self.server.post("/generate", _long_prompt(victim), timeout=60))
        time.sleep(0.3)
        self._in_background(self._transform)
        deadline = time.monotonic() + COMMIT_WAIT_S
        phase = None
        while time.monotonic() < deadline:
            operation = self.server.state()["operation"]
            phase = operation and operation["phase"]
            if phase == "commit":
                break
            time.sleep(0.005)
        when = strike(self.server, victim, self.fault)
        self.notes["phase_seen"] = phase
        return when

    def _transform(self) -> None:
        started = time.monotonic()
        answer = self.server.transform(list(range(self.workers)), self.workers)
        self.notes["transform"] = {"seconds": time.monotonic() - started, "answer": answer}

    def _in_background(self, call: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                call()
            except OSError as error:
                self.notes.setdefault("connections_closed", []).append(str(error))

        threading.Thread(target=run, daemon=True).start()


def _long_prompt(rank: int) -> dict[str, Any]:
    return {
        "input_ids": [100 + 13 * i % 5000 for i in range(PREFILL_TOKENS)],
        "sampling_params": {"max_new_tokens": 4, "temperature": 0},
        "routed_dp_rank": rank,
    }
