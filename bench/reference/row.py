"""One row of a table on one server: streams through every layout, and what must hold of them."""

import asyncio
import random
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.layout_record import degrees_of
from bench.reference.servers import POOL, start
from bench.soak.log import ServerLog
from bench.soak.walk import Walk
from tests.serving.load import chat_prompts
from tests.serving.servers import Server

STREAMS, NEW_TOKENS = 32, 48
# Not what the model itself says: any other rounding makes that less likely.
TAUGHT_CHARACTERS = 2400


@dataclass(frozen=True)
class Row:
    """kind: of the GPU that is stood for, None for the CPU itself; flags: of the server, where they
    are not the usual ones; tolerance: of the mean log-likelihood of a text."""

    kind: str | None
    dtype: str
    flags: tuple[str, ...] = ()
    tolerance: float = 1e-3

    @property
    def exact(self) -> bool:
        """Whether tokens must be those of the CPU plane."""
        return self.dtype == "float32"


def run_row(row: Row, workers: int, model: str, changes: int) -> dict[str, Any]:
    """Figures, of which `problems` must be empty."""
    prompts = chat_prompts(STREAMS)
    expected = expect(row, workers, model, prompts) if row.exact else None
    began = time.monotonic()
    with start(row.kind, row.dtype, model, workers, flags=row.flags) as server:
        case = Case(server, workers, prompts, expected, row.tolerance)
        case.go(changes)
        return {**case.figures(), "minutes": round((time.monotonic() - began) / 60, 1)}


def expect(row: Row, workers: int, model: str, prompts: list[str]) -> list[list[int]]:
    """The tokens of each prompt on the CPU plane."""
    flags = ("--tp-size", str(workers), "--dtype", row.dtype, "--max-total-tokens", str(POOL))
    with Server(*flags, "--amoeba-policy", "static", model=model) as server:
        return [server.generate(prompt, NEW_TOKENS)["output_ids"] for prompt in prompts]


class Case:
    """`outcomes` counts streams; `layouts`: the degrees by rank that were seen."""

    def __init__(
        self,
        server: Server,
        workers: int,
        prompts: list[str],
        expected: list[list[int]] | None,
        tolerance: float,
    ) -> None:
        self.server, self._workers, self._tolerance = server, workers, tolerance
        self._prompts, self._expected = prompts, expected
        self._walk, self._log = Walk(server, random.Random(1)), ServerLog(server.log)
        self._over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.layouts: Counter[str] = Counter()
        self.likelihoods: dict[str, float] = {}
        self.problems: list[str] = []

    def go(self, changes: int) -> None:
        text = " ".join(self._prompts)[:TAUGHT_CHARACTERS]
        with ThreadPoolExecutor(STREAMS) as pool:
            streams = [pool.submit(self._stream, number) for number in range(STREAMS)]
            try:
                asyncio.run(self._change(changes))
            finally:
                self._over.set()
            for stream in streams:
                stream.result()
        self.server.wait_until_idle()
        for degree in (*self._walk.chain.degrees, 1):
            self._require(asyncio.run(self._walk.settle(degree)), f"no way to degree {degree}")
            self._learn(text, f"degree {degree}")
        self._compare_content()
        self.problems += self._walk.problems + self._log.content_problems()
        without = self.server.state()["device"].get("plain steps without a graph", 0)
        self._require(not without, f"{without} plain decode steps had no graph")

    async def _change(self, changes: int) -> None:
        """Random changes until there were enough and all layouts were seen."""
        wanted = 2 if self._workers == 2 else 5
        while len(self._walk.made) < changes or len(self.layouts) < wanted:
            if not await self._walk.step():
                await asyncio.sleep(0.5)
            state = await asyncio.to_thread(self.server.state)
            self.layouts["+".join(map(str, degrees_of(state)))] += 1
            if self._walk.problems or self.server.process.poll() is not None:
                return

    def _stream(self, number: int) -> None:
        while not self._over.is_set():
            found = self.server.generate(self._prompts[number], NEW_TOKENS)["output_ids"]
            if len(found) != NEW_TOKENS:
                self.outcomes["lost"] += 1
                self.problems.append(f"stream {number} has {len(found)} tokens")
            elif self._expected is not None and found != self._expected[number]:
                self.outcomes["other tokens"] += 1
                self.problems.append(f"stream {number}: {found} are not {self._expected[number]}")
            else:
                self.outcomes["whole"] += 1

    def _learn(self, text: str, where: str) -> None:
        mean = statistics.fmean(self.server.score(text))
        first = self.likelihoods.setdefault("degree 1", mean)
        self.likelihoods[where] = mean
        self._require(abs(mean - first) <= self._tolerance, f"log-likelihood {mean} at {where}")

    def _compare_content(self) -> None:
        """Of weights and KV, before and after everything merges and splits."""
        self._log.follow()
        before = self._log.digests_taken()
        for degree in (self._walk.chain.finest, 1):
            asyncio.run(self._walk.settle(degree))
        self._log.follow()
        self.problems += self._log.changes_since(before)

    def _require(self, fact: bool, problem: str) -> None:
        if not fact:
            self.problems.append(problem)

    def figures(self) -> dict[str, Any]:
        device = self.server.state()["device"]
        return {
            "problems": self.problems[:20],
            "changes": len(self._walk.made),
            "orders": dict(self._walk.outcomes),
            "layouts": dict(self.layouts),
            "streams": dict(self.outcomes),
            "log_likelihoods": self.likelihoods,
            "device": device,
        }
