"""Clients of a server that is about to lose a worker, and what is left of it afterwards."""

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from amoeba_sglang.host.run_directory import PREFIX
from tests.serving.load import new_session
from tests.serving.servers import Server

SHARED_MEMORY = Path("/dev/shm")
OUTPUT_TOKENS = 1700
PROMPT_TOKENS = 40


@dataclass
class Ending:
    """How one request ended. `when`: monotonic seconds; `error` is empty for a good answer."""

    name: str
    started: asyncio.Event
    when: float = 0.0
    status: int = 0
    error: str = ""


async def request(
    session: aiohttp.ClientSession, server: Server, ending: Ending, rank: int, stream: bool,
    tokens: int = OUTPUT_TOKENS,
) -> Ending:  # fmt: skip
    """One long greedy completion homed on `rank`; fills in and returns `ending`."""
    body = {
        "input_ids": random.Random(ending.name).choices(range(100, 5000), k=PROMPT_TOKENS),
        "sampling_params": {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True},
        "stream": stream,
        "routed_dp_rank": rank,
    }
    try:
        async with session.post(f"{server.url}/generate", json=body) as reply:
            ending.status = reply.status
            if reply.status != 200:
                ending.error = (await reply.text())[:300]
            elif stream:
                ending.error = await _read_stream(reply, ending)
            else:
                ending.error = _bad_finish(await reply.json())
    except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
        ending.error = f"{type(error).__name__}: {error}"
    ending.when = time.monotonic()
    ending.started.set()
    return ending


async def _read_stream(reply: aiohttp.ClientResponse, ending: Ending) -> str:
    last: dict[str, Any] = {}
    async for line in reply.content:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            break
        last = json.loads(line[6:])
        if "error" in last:
            return str(last["error"])[:300]
        ending.started.set()
    return _bad_finish(last)


def _bad_finish(answer: dict[str, Any]) -> str:
    """ "" if the answer ended as asked, else why not."""
    reason = (answer.get("meta_info") or {}).get("finish_reason") or {}
    return "" if reason.get("type") in ("length", "stop") else f"finish reason {reason}"


async def strike_under_load(
    server: Server, ranks: list[int], strike: Callable[[], float], give_up_s: float, tokens: int
) -> tuple[float, list[Ending]]:
    """Run one streaming and one plain client on each of `ranks`, `strike()` once all run.

    Each asks for `tokens` tokens, enough not to end before the fault is noticed. `strike` runs in
    a thread and returns the monotonic time of the fault. Returns that time and the endings; a
    client without an end `give_up_s` after the strike has the error "no end".
    """
    async with new_session() as session:
        endings, tasks = [], []
        for rank in ranks:
            for stream in (True, False):
                name = f"{'stream' if stream else 'plain'}-{rank}"
                endings.append(Ending(name, asyncio.Event()))
                call = request(session, server, endings[-1], rank, stream, tokens)
                tasks.append(asyncio.create_task(call))
        streams = [ending.started.wait() for ending in endings if ending.name[0] == "s"]
        await asyncio.wait_for(asyncio.gather(*streams), 60)
        early = [ending for ending in endings if ending.when]
        assert not early, f"ended before the fault: {early}"
        fault = await asyncio.to_thread(strike)
        return fault, await _collect(tasks, endings, give_up_s)


async def ask_after(
    server: Server, rank: int, fault: float, give_up_s: float
) -> tuple[float, list[Ending]]:
    """Clients that come after a fault of an idle server, to the faulty rank."""
    async with new_session() as session:
        endings = [Ending(name, asyncio.Event()) for name in ("stream", "plain")]
        tasks = [
            asyncio.create_task(request(session, server, ending, rank, ending.name == "stream"))
            for ending in endings
        ]
        return fault, await _collect(tasks, endings, give_up_s)


async def _collect(
    tasks: list[asyncio.Task[Ending]], endings: list[Ending], give_up_s: float
) -> list[Ending]:
    _, waiting = await asyncio.wait(tasks, timeout=give_up_s)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for ending in endings:
        if not ending.when:
            ending.when, ending.error = time.monotonic(), "no end"
    return endings


class Remains:
    """What a server must not leave: its processes, the files in /dev/shm that they use, and the
    directory of its sockets.

    Made while the server runs. Files of other servers of the machine are no matter.
    """

    def __init__(self, server: Server) -> None:
        self._processes = server.processes()
        self._since = min(process.create_time() for process in self._processes)
        self._used = set().union(*(_shared_files(process.pid) for process in self._processes))
        self._directory = run_directory(server)

    def processes(self, wait_s: float = 3.0) -> list[str]:
        """The server's processes that still run."""
        _, alive = psutil.wait_procs(self._processes, timeout=wait_s)
        found = []
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        return found

    def files(self) -> list[str]:
        """Files in /dev/shm that the server used, or named after one of its processes; and the
        directory of its sockets."""
        pids = {str(process.pid) for process in self._processes}
        shared = sorted(
            str(path)
            for path in SHARED_MEMORY.iterdir()
            if str(path) in self._used or (pids & set(words_of(path.name)) and self._is_new(path))
        )
        return shared + [str(self._directory)] * self._directory.exists()

    def _is_new(self, path: Path) -> bool:
        """Process numbers come again: an older file belongs to another server."""
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime > self._since - 1
        return False


def run_directory(server: Server) -> Path:
    """Where the server's sockets are: the directory that its launcher holds a lock on."""
    descriptors = Path(f"/proc/{server.process.pid}/fd").iterdir()
    links = (Path(os.readlink(descriptor)) for descriptor in descriptors)
    return next(link for link in links if link.name.startswith(PREFIX))


def words_of(name: str) -> list[str]:
    """The parts of a file's name; digits inside a hexadecimal number are no process number."""
    return re.split(r"[^0-9A-Za-z]+", name)


def _shared_files(pid: int) -> set[str]:
    """Paths below /dev/shm that a process maps or has open, and that are not unlinked."""
    used = set()
    directory = Path(f"/proc/{pid}")
    for line in (directory / "maps").read_text().splitlines():
        if str(SHARED_MEMORY) in line:
            used.add(line[line.index(str(SHARED_MEMORY)) :])
    for descriptor in (directory / "fd").iterdir():
        with contextlib.suppress(OSError):
            used.add(os.readlink(descriptor))
    return {
        path for path in used if path.startswith(str(SHARED_MEMORY)) and "(deleted)" not in path
    }
