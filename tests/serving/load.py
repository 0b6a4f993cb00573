"""A streaming client that keeps many requests in flight and records every token's arrival."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

TOPICS = (
    "the sea", "a small bakery", "how bees find flowers", "a train in winter", "the number seven",
    "old maps", "why leaves turn red", "a lighthouse keeper", "learning to swim", "quiet streets",
)  # fmt: skip


def chat_prompts(count: int, seed: int = 0) -> list[str]:
    """`count` different chat prompts of varied length, the same for the same seed."""
    rng = random.Random(seed)
    prompts = []
    for number in range(count):
        topics = rng.sample(TOPICS, rng.randint(1, 5))
        prompts.append(f"Tell me story number {number} about {', '.join(topics)}.")
    return prompts


@dataclass
class Stream:
    """One streamed chat completion: text, arrival time of every chunk (monotonic s), outcome."""

    prompt: str
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    sent: float = 0.0
    finish_reason: str = ""
    error: str = ""

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def stream_chat(
    session: aiohttp.ClientSession, url: str, prompt: str, max_tokens: int, stop_after: int = 0
) -> Stream:
    """Stream one greedy chat completion; `stop_after` > 0 disconnects after that many chunks."""
    stream = Stream(prompt, sent=time.monotonic())
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
    }
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            if reply.status != 200:
                stream.error = f"{reply.status}: {await reply.text()}"
                return stream
            async for line in reply.content:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    stream.error = str(chunk["error"])
                    return stream
                choice = chunk["choices"][0]
                if choice["delta"].get("content"):
                    stream.text += choice["delta"]["content"]
                    stream.arrivals.append(time.monotonic())
                stream.finish_reason = choice.get("finish_reason") or stream.finish_reason
                if stop_after and len(stream.arrivals) >= stop_after:
                    return stream
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        stream.error = f"{type(error).__name__}: {error}"
    if not stream.error and not stream.finish_reason:
        stream.error = "stream ended without a finish reason"
    return stream


def new_session(timeout_s: float = 600.0) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def run_clients(
    url: str,
    prompts: list[str],
    concurrency: int,
    max_tokens: int | Sequence[int],
    beside: Callable[[asyncio.Event], Awaitable[None]] | None = None,
) -> list[Stream]:
    """Stream every prompt, `concurrency` at a time, while `beside(done)` runs until `done` is set.

    `max_tokens`: of all prompts or of each. Returns the streams in the order of the prompts.
    """
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    results: list[Stream | None] = [None] * len(prompts)
    queue = iter(range(len(prompts)))
    done = asyncio.Event()
    async with new_session() as session:

        async def client() -> None:
            for number in queue:
                results[number] = await stream_chat(session, url, prompts[number], limits[number])

        other = asyncio.create_task(beside(done)) if beside else None
        await asyncio.gather(*(client() for _ in range(concurrency)))
        done.set()
        if other is not None:
            await asyncio.wait_for(other, 120)
    return [stream for stream in results if stream is not None]
