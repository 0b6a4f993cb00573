"""A layout that is changed by restarting the server, as one does without transformations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from bench.trace import TraceRequest

# Merged, it waits this long for the next long request; the policy `amoeba` does the same.
LINGER_S = 2.0
_TICK_S = 0.02


class Process(Protocol):
    """A server that is started on enter and gone after exit; both block."""

    url: str

    def __enter__(self) -> Process: ...

    def __exit__(self, *exc: object) -> None: ...


class RestartedServer:
    """Where a replay's requests go: to the one server that runs, of degree 1 or `high`.

    make: a server of a degree. own_tokens: a longer request needs `high`. For a change new requests
    wait, those that run end, and a new server starts: none is lost or prefilled twice.
    restarts: (degree, seconds in which requests waited, drain included) of each change.
    """

    def __init__(self, make: Callable[[int], Process], high: int, own_tokens: int) -> None:
        self.restarts: list[tuple[int, float]] = []
        self._make, self._high, self._own_tokens = make, high, own_tokens
        self._degree, self._changing = 1, False
        self._running = self._longs = 0
        self._quiet_since = 0.0
        self._failure: Exception | None = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[RestartedServer]:
        """Keep a server of the degree that is needed, from the first one's start on."""
        self._server = await asyncio.to_thread(self._make(1).__enter__)
        keeper = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await asyncio.to_thread(self._server.__exit__, None, None, None)

    @asynccontextmanager
    async def open(self, request: TraceRequest) -> AsyncIterator[str]:
        """The base URL of the server, once it can hold the request; OSError if none starts."""
        is_long = request.tokens > self._own_tokens
        self._longs += is_long
        try:
            while self._changing or (is_long and self._degree < self._high):
                if self._failure is not None:
                    raise OSError(f"no server: {self._failure}")
                await asyncio.sleep(_TICK_S)
            self._running += 1
            try:
                yield self._server.url
            finally:
                self._running -= 1
        finally:
            self._longs -= is_long
            if is_long:
                self._quiet_since = time.monotonic()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if (degree := self._wanted()) == self._degree:
                continue
            started = time.monotonic()
            self._changing = True
            while self._running:
                await asyncio.sleep(_TICK_S)
            try:
                await asyncio.to_thread(self._restart, degree)
            except Exception as error:
                self._failure = error
                return
            self._degree, self._changing = degree, False
            self._quiet_since = time.monotonic()
            self.restarts.append((degree, self._quiet_since - started))

    def _wanted(self) -> int:
        if self._longs:
            return self._high
        quiet = time.monotonic() - self._quiet_since
        return 1 if quiet >= LINGER_S else self._degree

    def _restart(self, degree: int) -> None:
        self._server.__exit__(None, None, None)
        self._server = self._make(degree)
        self._server.__enter__()
