"""Clients of the soak: long outputs, disconnects, aborts, long prompts; all that they saw."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.serving.load import new_session

VOCABULARY = range(100, 5000)
DISCONNECT, ABORT, LONG = 0.12, 0.12, 0.015
NO_REPLY_S = 600.0


@dataclass(frozen=True)
class Sizes:
    """Tokens: `short` and `long` prompts and `output`, each (least, most)."""

    short: tuple[int, int] = (16, 120)
    long: tuple[int, int] = (2000, 2600)
    output: tuple[int, int] = (60, 420)


class Gaps:
    """Start and end (monotonic seconds) of the time between two chunks of one stream."""

    def __init__(self) -> None:
        self.starts, self.ends = array("d"), array("d")

    def add(self, start: float, end: float) -> None:
        self.starts.append(start)
        self.ends.append(end)


class SoakLoad:
    """`clients` clients in a loop; `pause` lets running requests end, `resume` goes on.

    outcomes counts "done", "disconnected", "aborted", "error", "lost" (a stream that ended
    without a finish reason) and "stuck" (no end within `NO_REPLY_S`); problems keeps the text.
    """

    def __init__(self, url: str, clients: int, sizes: Sizes, seed: int) -> None:
        self.url, self.sizes = url, sizes
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.gaps = Gaps()
        self.tokens = 0
        self._rng = random.Random(seed)
        self._numbers = itertools.count()
        self._open = asyncio.Event()
        self._open.set()
        self._busy = 0
        self._all_aborted = False
        self._session = new_session(NO_REPLY_S)
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def pause(self, abort: bool = False) -> None:
        """Start no more requests and wait until none runs; with `abort` end those that run."""
        self._open.clear()
        if abort:
            self._all_aborted = True
            await self._abort({"abort_all": True})
        deadline = time.monotonic() + NO_REPLY_S
        while self._busy and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def resume(self) -> None:
        self._all_aborted = False
        self._open.set()

    async def close(self) -> None:
        await self.pause()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def broken(self) -> int:
        """Requests that went wrong."""
        return sum(self.outcomes[name] for name in ("error", "lost", "stuck"))

    async def _client(self) -> None:
        while True:
            await self._open.wait()
            self._busy += 1
            try:
                outcome = await self._one_request()
            except TimeoutError:
                outcome = "stuck"
            except (aiohttp.ClientError, ConnectionError) as error:
                outcome = "error"
                self.problems.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)
            finally:
                self._busy -= 1
            self.outcomes[outcome] += 1
            await asyncio.sleep(self._rng.random() * 0.1)

    async def _one_request(self) -> str:
        rng, sizes = self._rng, self.sizes
        is_long = rng.random() < LONG
        output = rng.randint(*sizes.output) if not is_long else rng.randint(2, 40)
        fate, after = rng.random(), rng.randint(0, output)
        # Of one width: SGLang aborts every request whose id begins with the one it is given.
        rid = f"soak-{next(self._numbers):07d}"
        body = {
            "rid": rid,
            "input_ids": rng.choices(
                VOCABULARY, k=rng.randint(*(sizes.long if is_long else sizes.short))
            ),
            # Not `ignore_eos`: for that SGLang sets all tokens of the output aside when it admits a
            # request, and then never retracts one.
            "sampling_params": {
                "max_new_tokens": output,
                "min_new_tokens": output,
                "temperature": 0,
            },
            "stream": True,
        }
        asked_abort = False
        if after == 0 and fate < DISCONNECT + ABORT:
            # Gone while it waits or is half prefilled: the time is random too.
            return await self._vanish(body, rid, rng.random() * 2, fate < DISCONNECT)
        async with self._session.post(f"{self.url}/generate", json=body) as reply:
            if reply.status != 200:
                self.problems.append(f"{reply.status}: {(await reply.text())[:200]}")
                return "error"
            last_time, last = 0.0, {}
            async for line in reply.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    break
                now, last = time.monotonic(), json.loads(line[6:])
                if "error" in last:
                    self.problems.append(str(last["error"])[:200])
                    return "error"
                if last_time:
                    self.gaps.add(last_time, now)
                last_time = now
                made = last["meta_info"]["completion_tokens"]
                if made >= after and fate < DISCONNECT:
                    return "disconnected"
                if made >= after and fate < DISCONNECT + ABORT and not asked_abort:
                    asked_abort = True
                    await self._abort({"rid": rid})
        return self._judge(last, output, asked_abort or self._all_aborted)

    def _judge(self, last: dict[str, Any], output: int, asked_abort: bool) -> str:
        meta = last.get("meta_info") or {}
        reason = (meta.get("finish_reason") or {}).get("type")
        self.tokens += meta.get("completion_tokens", 0)
        if reason == "length" and meta["completion_tokens"] == output:
            return "done"
        if reason == "abort" and asked_abort:
            return "aborted"
        self.problems.append(
            f"{meta.get('completion_tokens')} of {output} tokens, {meta.get('finish_reason')}"
        )
        return "lost" if reason is None else "error"

    async def _vanish(self, body: dict[str, Any], rid: str, after_s: float, silent: bool) -> str:
        call = asyncio.create_task(self._read_all(body))
        await asyncio.sleep(after_s)
        if silent:
            call.cancel()
        else:
            await self._abort({"rid": rid})
        await asyncio.gather(call, return_exceptions=True)
        return "disconnected" if silent else "aborted"

    async def _read_all(self, body: dict[str, Any]) -> None:
        async with self._session.post(f"{self.url}/generate", json=body) as reply:
            await reply.read()

    async def _abort(self, what: dict[str, Any]) -> None:
        async with self._session.post(f"{self.url}/abort_request", json=what) as reply:
            await reply.read()
