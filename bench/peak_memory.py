"""The most memory of every worker while it transforms under load: python -m bench.peak_memory.

A worker's memory is what only it has (anonymous pages) and its memory file (KV and MLP weights).
Sampled every few milliseconds from outside, in turns without and with transformations under the
same load, so that the forwards' own memory is on both sides. The heap of a worker grows for minutes
of load, transformations or not, so every turn with them is held against those before and behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
import time
from itertools import pairwise
from typing import Any

from bench import results_file
from bench.footprint import memory_file, private_bytes
from tests.serving.load import chat_prompts, run_clients
from tests.serving.servers import Server

_ROUNDS, _SPAN_S = 5, 12.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    results_file.write("peak_memory", {f"{n} workers": measure(n) for n in options.workers})


def measure(workers: int) -> dict[str, Any]:
    flags = f"--tp-size {workers} --dtype float32 --max-total-tokens 4096 --amoeba-policy static"
    with Server(*flags.split()) as server:
        return asyncio.run(_under_load(server, workers))


async def _under_load(server: Server, workers: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def turns(done: asyncio.Event) -> None:
        await asyncio.sleep(5)
        pids = [process.pid for process in server.workers()]
        quiet, busy, changes = [], [], 0
        for number in range(_ROUNDS + 1):
            with Watch(pids) as watch:
                await asyncio.sleep(_SPAN_S)
            quiet.append(watch.most)
            if number == _ROUNDS:
                break
            with Watch(pids) as watch:
                end = time.monotonic() + _SPAN_S
                while time.monotonic() < end:
                    for degree in (workers, 1):
                        status, reply = await asyncio.to_thread(
                            server.transform, list(range(workers)), degree
                        )
                        assert status == 200, reply
                        changes += 1
            busy.append(watch.most)
        extra = [
            max(
                turn[rank] - max(before[rank], after[rank])
                for turn, (before, after) in zip(busy, pairwise(quiet), strict=True)
            )
            for rank in range(workers)
        ]
        found.update(transformations=changes, samples_of_last_turn=watch.samples)
        found["extra_mib_by_rank"] = [round(size / 2**20, 2) for size in extra]
        found["most_mib_by_turn"] = {
            name: [[round(size / 2**20, 2) for size in turn] for turn in seen]
            for name, seen in (("without", quiet), ("with", busy))
        }
        done.set()

    running = asyncio.Event()
    task = asyncio.create_task(turns(running))
    while not running.is_set():
        streams = await run_clients(server.url, chat_prompts(16), 8 * workers, 64)
        assert not [stream.error for stream in streams if stream.error]
    await task
    return found


class Watch:
    """The largest memory of each process while it is entered, in bytes."""

    def __init__(self, pids: list[int]) -> None:
        self._stop = threading.Event()
        self._processes = [(pid, memory_file(pid)) for pid in pids]
        self.most = [0] * len(pids)
        self.samples = 0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            for rank, (pid, file) in enumerate(self._processes):
                now = private_bytes(pid) + os.stat(file).st_blocks * 512
                self.most[rank] = max(self.most[rank], now)
            self.samples += 1

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
