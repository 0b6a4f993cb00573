"""What runs beside the hostile requests: ordinary streams, transformations, a look at memory."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import psutil

from tests.serving.load import Stream, chat_prompts, new_session, run_clients, stream_chat
from tests.serving.servers import Server

OUTPUT = 48
_PAUSE_S = 0.1
_EXCUSED_S = 15.0
_REACH_S = 120.0
# Flat: the last third's median is at most so far above the middle third's.
FLAT_MIB = 16.0
_LEAST_SAMPLES = 30


@dataclass
class Problem:
    """What went wrong beside, and when (monotonic)."""

    at: float
    what: str


class Streams:
    """Greedy chat streams in a loop, each held against what it was on the quiet server."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.prompts = chat_prompts(2 * clients, seed=3)
        self.reference: list[Stream] = []
        self.done = 0
        self.problems: list[Problem] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def take_reference(self, url: str) -> None:
        self.reference = await run_clients(url, self.prompts, self.clients, OUTPUT)
        if wrong := [stream.error for stream in self.reference if stream.error]:
            raise RuntimeError(f"streams of the quiet server failed: {wrong[:3]}")

    def start(self, url: str) -> None:
        self._tasks = [asyncio.create_task(self._client(url, n)) for n in range(self.clients)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _client(self, url: str, number: int) -> None:
        async with new_session(120) as session:
            while True:
                right = self.reference[number]
                stream = await stream_chat(session, url, self.prompts[number], OUTPUT)
                if stream.error:
                    self.problems.append(Problem(time.monotonic(), stream.error[:300]))
                    await asyncio.sleep(0.5)
                elif (stream.text, stream.finish_reason) != (right.text, right.finish_reason):
                    what = f"{stream.text!r} ({stream.finish_reason}) in place of {right.text!r}"
                    self.problems.append(Problem(time.monotonic(), what))
                else:
                    self.done += 1
                number = (number + self.clients) % len(self.prompts)

    def harmed(self, outages: list[tuple[float, float]]) -> list[Problem]:
        """Problems outside of the times in which the server was dead, which are counted apart."""
        return [
            problem
            for problem in self.problems
            if not any(start - _EXCUSED_S <= problem.at <= end for start, end in outages)
        ]


class Changes:
    """Merges and splits all workers without pause while it runs."""

    def __init__(self, workers: int) -> None:
        self.ranks = list(range(workers))
        self.done = self.refused = 0
        self.problems: list[Problem] = []
        self._wanted = False

    async def run(self, server: Server) -> None:
        self._wanted = True
        while self._wanted:
            for degree in (len(self.ranks), 1):
                await self.change(server, degree)
                await asyncio.sleep(_PAUSE_S)

    def stop(self) -> None:
        self._wanted = False

    async def reach(self, server: Server, degree: int) -> None:
        """Bring all workers to `degree`, as soon as no long request stands against it."""
        deadline = time.monotonic() + _REACH_S
        while not await self.change(server, degree):
            if time.monotonic() > deadline:
                what = f"degree {degree} not reached in {_REACH_S:g} s"
                self.problems.append(Problem(time.monotonic(), what))
                return
            await asyncio.sleep(0.5)

    async def change(self, server: Server, degree: int) -> bool:
        """One transformation of all workers to `degree`; whether it was carried out.

        Workers refuse while a request lives that the new layout cannot hold.
        """
        try:
            status, reply = await asyncio.to_thread(server.transform, self.ranks, degree)
        except OSError as error:
            self.problems.append(Problem(time.monotonic(), f"{type(error).__name__}: {error}"))
            await asyncio.sleep(0.5)
            return False
        if status == 200:
            self.done += 1
        elif status == 409:
            self.refused += 1
        else:
            self.problems.append(Problem(time.monotonic(), f"{status}: {str(reply)[:300]}"))
        return status == 200


@dataclass
class Memory:
    """Resident MiB of the HTTP process, one series for each server that was started."""

    series: list[list[float]] = field(default_factory=list)

    async def watch(self, server: Server) -> None:
        """Sample once a second until cancelled."""
        samples: list[float] = []
        self.series.append(samples)
        process = psutil.Process(server.process.pid)
        while True:
            try:
                samples.append(round(process.memory_info().rss / 2**20, 1))
            except psutil.NoSuchProcess:
                return
            await asyncio.sleep(1)

    def figures(self) -> dict[str, float | bool | list[float]]:
        """Medians of the thirds of the longest series; flat: the last is not above the middle."""
        longest = max(self.series, key=len, default=[])
        if len(longest) < _LEAST_SAMPLES:
            return {"samples": len(longest), "flat": True}
        third = len(longest) // 3
        medians = [statistics.median(longest[n * third : (n + 1) * third]) for n in range(3)]
        return {
            "samples": len(longest),
            "first_third_mib": medians[0],
            "middle_third_mib": medians[1],
            "last_third_mib": medians[2],
            "most_mib": max(longest),
            "flat": medians[2] - medians[1] <= FLAT_MIB,
            "every_tenth": longest[::10],
        }
