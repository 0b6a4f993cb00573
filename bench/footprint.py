"""What the processes of a server hold and burn: memory, descriptors, maps, CPU time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from amoeba_sglang.planes.memory.host import HostMemory
from tests.serving.servers import Server

_ROLES = {
    "sglang::scheduler": "worker",
    "sglang::data_parallel_controller": "router",
    "sglang::detokenizer": "detokenizer",
    "launch_server": "http",
}


def role(process: psutil.Process) -> str:
    """ "worker DP0", "router", "detokenizer", "http" or "other"."""
    command = " ".join(process.cmdline())
    for mark, name in _ROLES.items():
        if mark in command:
            rank = command.partition("scheduler")[2].strip("_ ") if name == "worker" else ""
            return f"{name} {rank}".strip()
    return "other"


def sample(server: Server) -> dict[str, Any]:
    """Per process RSS in MiB, descriptors and memory maps; bytes of /dev/shm (of the machine)."""
    processes: dict[str, dict[str, float]] = {}
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = role(process)
            while name in processes:
                name += "'"
            processes[name] = {
                "rss_mib": round(process.memory_info().rss / 2**20, 2),
                "fds": process.num_fds(),
                "maps": len(Path(f"/proc/{process.pid}/maps").read_text().splitlines()),
            }
    shared = 0
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):
            shared += path.stat().st_size
    return {"processes": processes, "shm_bytes": shared}


def private_bytes(pid: int) -> int:
    """Memory that only this process has: all but files and shared pages."""
    resident, shared = (int(n) for n in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory of this process beyond what it had: anonymous, and pages of its own file.

    Peers' pages that this process reads are no memory of its own. Sampled every 200 us by a thread.
    """

    def __init__(self, memory: HostMemory) -> None:
        self._memory, self._stop = memory, threading.Event()
        self.extra = 0

    def _now(self) -> int:
        return private_bytes(os.getpid()) + self._memory.physical_bytes()

    def __enter__(self) -> Peak:
        self._before = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.0002):
            self.extra = max(self.extra, self._now() - self._before)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def memory_file(pid: int) -> Path:
    """The file of a worker's KV and MLP weights, as a path that `os.stat` takes."""
    return next(
        path
        for path in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(path).startswith("/memfd:amoeba-pages")
    )


@dataclass(frozen=True)
class Mapping:
    """Addresses [low, high) of a process, and the bytes of them that have memory (smaps)."""

    low: int
    high: int
    permissions: str
    inode: int
    resident: int


def mappings(pid: int) -> list[Mapping]:
    """All mappings of a process, by address."""
    found: list[Mapping] = []
    head: list[str] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            head = words
        elif line.startswith("Rss:"):
            low, high = (int(part, 16) for part in head[0].split("-"))
            found.append(Mapping(low, high, head[1], int(head[4]), int(words[1]) * 1024))
    return found


def cpu_seconds(server: Server) -> dict[str, float]:
    """User and system time of every process so far, by role."""
    used: dict[str, float] = {}
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times, name = process.cpu_times(), role(process)
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def cpu_percent(server: Server, seconds: float) -> dict[str, float]:
    """CPU over the next `seconds`, by role and "all", in percent of one core."""
    before, started = cpu_seconds(server), time.monotonic()
    time.sleep(seconds)
    after, span = cpu_seconds(server), time.monotonic() - started
    percent = {name: round(100 * (after[name] - before.get(name, 0)) / span, 2) for name in after}
    return {**percent, "all": round(sum(percent.values()), 2)}


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope dy/dx of (x, y) points; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    square = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / square if square else 0.0


def growth(samples: list[tuple[float, dict[str, Any]]], per: float) -> dict[str, dict[str, float]]:
    """Per process the first and last figure and the slope per `per` units of x.

    samples: (x, `sample`) pairs. The first quarter is left out: caches fill there.
    """
    settled = samples[len(samples) // 4 :]
    result = {}
    for name in settled[-1][1]["processes"]:
        for what in ("rss_mib", "fds", "maps"):
            points = [
                (x, taken["processes"][name][what])
                for x, taken in settled
                if name in taken["processes"]
            ]
            result.setdefault(name, {})[what] = {
                "first": points[0][1],
                "last": points[-1][1],
                "slope": round(per * slope(points), 4),
            }
    shared = [(x, taken["shm_bytes"]) for x, taken in settled]
    result["machine"] = {
        "shm_bytes": {
            "first": shared[0][1], "last": shared[-1][1], "slope": round(per * slope(shared), 1),
        }
    }  # fmt: skip
    return result
