"""Sends a workload to an OpenAI-compatible server at its arrival times, and watches its layout."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiohttp

from bench.layout_record import LayoutRecord
from bench.prompts import PromptMaker
from bench.replay_metrics import Outcome
from bench.trace import TraceRequest

_POLL_S = 0.25
_STATE_TIMEOUT_S = 10.0


class ReplayClock:
    """Seconds since the start as the server's device counts them: `dilation` real ones each."""

    def __init__(self, dilation: float = 1.0) -> None:
        self.dilation = dilation
        self._start = time.monotonic()

    def now(self) -> float:
        return (time.monotonic() - self._start) / self.dilation

    async def reach(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self.now()) * self.dilation)


class Target(Protocol):
    """Where requests go: `open` yields a base URL, maybe after a wait, for the whole request."""

    def open(self, request: TraceRequest) -> AbstractAsyncContextManager[str]: ...


class OneServer:
    """All requests go to one base URL, at once."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def open(self, request: TraceRequest) -> AsyncIterator[str]:
        yield self.url


class Replay:
    """One replay.

    body: fields beside prompt and lengths of every request. timeout: of one request, in seconds of
    the clock. on_end: called with every outcome.
    """

    def __init__(
        self,
        target: Target,
        prompts: PromptMaker,
        body: dict[str, Any],
        timeout: float,
        on_end: Callable[[Outcome], None] = lambda outcome: None,
        dilation: float = 1.0,
    ) -> None:
        self._target, self._prompts, self._body = target, prompts, body
        self._timeout, self._on_end = timeout, on_end
        self.clock = ReplayClock(dilation)

    async def run(self, requests: Sequence[TraceRequest]) -> list[Outcome]:
        """Their outcomes, in their order. Ends at the latest a timeout after the last arrival."""
        connector = aiohttp.TCPConnector(limit=0)
        no_limit = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=no_limit) as session:
            return await asyncio.gather(
                *(self._run_one(session, number, one) for number, one in enumerate(requests))
            )

    async def _run_one(
        self, session: aiohttp.ClientSession, number: int, request: TraceRequest
    ) -> Outcome:
        outcome = Outcome(request)
        await self.clock.reach(request.arrival)
        try:
            async with asyncio.timeout(self._timeout * self.clock.dilation):
                prompt = self._prompts.make(number, request.input_tokens)
                async with self._target.open(request) as url:
                    await self._stream(session, url, prompt, outcome)
        except TimeoutError:
            outcome.error = f"no end within {self._timeout:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        self._on_end(outcome)
        return outcome

    async def _stream(
        self, session: aiohttp.ClientSession, url: str, prompt: str, outcome: Outcome
    ) -> None:
        body = {
            **self._body,
            "prompt": prompt,
            "max_tokens": outcome.request.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        outcome.sent = self.clock.now()
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            if reply.status != 200:
                outcome.kind = "rejected" if 400 <= reply.status < 500 else "failed"
                outcome.error = f"{reply.status}: {await reply.text()}"
                return
            finish = await self._read(reply, outcome)
        if outcome.error:
            return
        if finish in ("length", "stop"):
            outcome.kind = "done"
        else:
            outcome.error = f"the stream ended with finish reason {finish}"

    async def _read(self, reply: aiohttp.ClientResponse, outcome: Outcome) -> str | None:
        finish = None
        async for line in read_lines(reply):
            if not line.startswith(b"data:") or line.removeprefix(b"data:").strip() == b"[DONE]":
                continue
            chunk = json.loads(line.removeprefix(b"data:"))
            if "error" in chunk:
                outcome.error = str(chunk["error"])
                return None
            if usage := chunk.get("usage"):
                outcome.prompt_tokens = usage["prompt_tokens"]
                outcome.completion_tokens = usage["completion_tokens"]
                details = usage.get("prompt_tokens_details") or {}
                outcome.cached_tokens = details.get("cached_tokens")
            for choice in chunk.get("choices") or ():
                outcome.last = self.clock.now()
                outcome.first = outcome.first or outcome.last
                outcome.text += choice.get("text") or ""
                finish = choice.get("finish_reason") or finish
        return finish


async def read_lines(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own reader ends at 64 KiB, which an error may exceed."""
    rest = b""
    async for piece in reply.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def fetch_state(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """`GET /amoeba/state`; None from a server that has none."""
    timeout = aiohttp.ClientTimeout(total=_STATE_TIMEOUT_S)
    try:
        async with session.get(f"{url}/amoeba/state", timeout=timeout) as reply:
            return await reply.json() if reply.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


async def watch_layout(url: str, record: LayoutRecord, clock: ReplayClock) -> None:
    """Add to `record` until cancelled; a server that is too busy to answer is asked again."""
    async with aiohttp.ClientSession() as session:
        while True:
            await asyncio.sleep(_POLL_S)
            state = await fetch_state(session, url)
            if state is not None:
                record.add(clock.now(), state)
