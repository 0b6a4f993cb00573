"""Fixed small workloads on a quiet server: is a step as fast as it was before?"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from typing import Any

import aiohttp

from tests.serving.load import new_session
from tests.serving.servers import Server

CHUNK_TOKENS = 512
PROMPT_CHUNKS = 5


async def _stream(
    session: aiohttp.ClientSession, server: Server, tokens: list[int], output: int, rank: int
) -> list[float]:
    """Arrival times of the chunks of one greedy stream, the sending first."""
    body = {
        "input_ids": tokens,
        "sampling_params": {"max_new_tokens": output, "temperature": 0, "ignore_eos": True},
        "stream": True,
        "routed_dp_rank": rank,
    }
    times = [time.monotonic()]
    async with session.post(f"{server.url}/generate", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"probe: {reply.status} {await reply.text()}")
        async for line in reply.content:
            if line.startswith(b"data: {"):
                if "error" in json.loads(line[6:]):
                    raise RuntimeError(f"probe: {line.decode()}")
                times.append(time.monotonic())
    return times


def probe_decode(server: Server, ranks: range, output: int = 64) -> dict[str, float]:
    """Gaps in ms between the tokens of two streams per rank, after the first ten of each."""

    async def run() -> list[float]:
        async with new_session(120) as session:
            prompts = [random.Random(i).choices(range(100, 5000), k=64) for i in range(2)]
            streams = [_stream(session, server, p, output, rank) for rank in ranks for p in prompts]
            return [
                1000 * (b - a)
                for times in await asyncio.gather(*streams)
                for a, b in itertools.pairwise(times[10:])
            ]

    gaps = asyncio.run(run())
    return {"median_ms": statistics.median(gaps), "max_ms": max(gaps), "gaps": len(gaps)}


def probe_prefill(server: Server, seed: int, merge: list[int] | None = None) -> dict[str, Any]:
    """Seconds per chunk of a long prompt that no cache knows, homed on rank 0.

    With `merge`, these ranks merge after the first chunk or so: the answer has the transformation.
    """
    prompt = random.Random(1000 + seed).choices(range(100, 5000), k=PROMPT_CHUNKS * CHUNK_TOKENS)
    changed: dict[str, Any] = {}

    async def run() -> float:
        async with new_session(300) as session:
            task = asyncio.create_task(_stream(session, server, prompt, 2, 0))
            if merge:
                await asyncio.sleep(0.4)
                status, reply = await asyncio.to_thread(server.transform, merge, len(merge))
                changed["transform"] = {"status": status, **reply}
                changed["prefill_was_over"] = task.done()
            times = await task
            return times[1] - times[0]

    seconds = asyncio.run(run())
    return {"seconds_per_chunk": seconds / PROMPT_CHUNKS, **changed}
