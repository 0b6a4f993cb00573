"""Server-sent events for those who look: one question to the router, however many they are.

A reader gets `view`, everything, and then `frame` twice a second, what is new since: the answers of
the router to ViewAsked, with `beat` (see Pulse). `trouble` says why there is no frame; `end` is the
last thing that a server says which ends. Nothing is asked while nobody looks.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.pulse import Pulse

PERIOD_SECONDS = 0.5
MOST_READERS = 200
# Frames that a reader may be behind before its stream ends; it may come back for a view.
_BEHIND = 8

Ask = Callable[[float | None], Awaitable[dict[str, Any]]]
"""What the router has to say since a time of its own; RequestError if it says nothing."""


class Feed:
    """`about`: what a view also says of the server."""

    def __init__(self, ask: Ask, about: Callable[[], Mapping[str, Any]]) -> None:
        self.pulse = Pulse(time.perf_counter())
        self._ask, self._about = ask, about
        self._readers: set[asyncio.Queue[bytes | None]] = set()
        self._since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = ""

    @property
    def watched(self) -> bool:
        return bool(self._readers)

    async def read(self) -> AsyncIterator[bytes]:
        """The events of one reader, until it is gone. RequestError 503 before the first one, with
        too many readers, in a server that ends, or from the router."""
        if self._over:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, self._over)
        if len(self._readers) >= MOST_READERS:
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MOST_READERS} pages look at this server already: close some",
            )
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BEHIND)
        self._readers.add(queue)
        try:
            # What it then hears twice it tells apart by the time.
            view = await self._ask(None)
            yield _event("view", {**view, "about": self._about()})
            self._start(view["now"])
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._readers.discard(queue)

    def end(self, reason: str) -> None:
        """The server ends: tell all, let them go, and take no others: an open stream would keep the
        HTTP server from ending."""
        self._over = reason
        self._tell(_event("end", {"error": reason}))
        for queue in list(self._readers):
            self._drop(queue)

    def _start(self, now: float) -> None:
        if self._task is None or self._task.done():
            self._since = now
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        self.pulse.forget(time.perf_counter())
        while self._readers:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                frame = await self._ask(self._since)
            except RequestError as error:
                self._tell(_event("trouble", {"error": str(error)}))
                continue
            self._since = frame["now"]
            beat = asdict(self.pulse.take(time.perf_counter()))
            self._tell(_event("frame", {**frame, "beat": beat}))
        self.pulse.forget(time.perf_counter())

    def _tell(self, event: bytes) -> None:
        for queue in list(self._readers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._drop(queue)

    def _drop(self, queue: asyncio.Queue[bytes | None]) -> None:
        """Its stream ends once it has read what is there."""
        self._readers.discard(queue)
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(None)


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
