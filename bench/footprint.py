"""What the processes of a server hold and burn: memory, descriptors, maps, CPU time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
    """Per process RSS and PSS in MiB, descriptors and memory maps; bytes of /dev/shm (of the
    machine)."""
    processes: dict[str, dict[str, float]] = {}
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = role(process)
            while name in processes:
                name += "'"
            processes[name] = {
                "rss_mib": round(process.memory_info().rss / 2**20, 2),
                "pss_mib": round(proportional_bytes(process.pid) / 2**20, 2),
                "fds": process.num_fds(),
                "maps": len(Path(f"/proc/{process.pid}/maps").read_text().splitlines()),
            }
    shared = 0
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):
            shared += path.stat().st_size
    return {"processes": processes, "shm_bytes": shared}


def proportional_bytes(pid: int) -> int:
    """Resident memory with every shared page counted in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


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


def growth(samples: list[tuple[float, dict[str, Any]]], per: float) -> dict[str, dict[str, Any]]:
    """Per process and for all of them together the first and last figure, and the slope per `per`
    units of x with its 90 % interval.

    samples: (x, `sample`) pairs. The first quarter is left out: caches fill there.
    """
    settled = samples[len(samples) // 4 :]
    if not settled:
        return {}
    names = [n for n in settled[-1][1]["processes"] if all(n in s["processes"] for _, s in settled)]
    result: dict[str, dict[str, Any]] = {}
    for name in [*names, "all"]:
        chosen = names if name == "all" else [name]
        for what in ("rss_mib", "pss_mib", "fds", "maps"):
            points = [
                (x, sum(taken["processes"][one][what] for one in chosen)) for x, taken in settled
            ]
            result.setdefault(name, {})[what] = trend(points, per)
    shared = [(x, float(taken["shm_bytes"])) for x, taken in settled]
    result["machine"] = {"shm_bytes": trend(shared, per)}
    return result


def trend(points: list[tuple[float, float]], per: float) -> dict[str, Any]:
    """First and last y, and the least-squares slope with its 90 % interval, per `per` units of x.

    Neighbouring samples resemble each other: the interval is as wide as for so many independent
    ones as their residuals' first autocorrelation leaves.
    """
    x, y = (np.array(column) for column in zip(*points, strict=True))
    found = {"first": round(float(y[0]), 2), "last": round(float(y[-1]), 2)}
    spread = x - x.mean()
    if len(x) < 4 or not spread.any():
        return found
    slope = spread @ y / (spread @ spread)
    residuals = y - y.mean() - slope * spread
    square = residuals @ residuals
    alike = max(0.0, residuals[1:] @ residuals[:-1] / square) if square else 0.0
    count = max(3.0, len(x) * (1 - alike) / (1 + alike))
    error = 1.645 * np.sqrt(square / len(x) * len(x) / (count - 2) / (spread @ spread))
    low, high = (round(float(per * (slope + sign * error)), 3) for sign in (-1, 1))
    return {**found, "slope": round(float(per * slope), 3), "interval": [low, high]}
