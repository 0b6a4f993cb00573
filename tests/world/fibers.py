"""Threads that run one at a time over a virtual clock, so that a seed decides every order."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from random import Random
from typing import Any


class Killed(BaseException):
    """Unwinds a fiber at the end of its history."""


class Loop:
    """A virtual clock and what is to happen when; ties are broken by the seed, not by who came
    first. `current`: the fiber that runs now, or None. `events`: how many have happened."""

    def __init__(self, seed: object) -> None:
        self.now, self.events = 0.0, 0
        self.current: Fiber | None = None
        self.fibers: list[Fiber] = []
        self._ties = Random(f"{seed}/ties")
        self._heap: list[tuple[float, float, int, Callable[[], Any]]] = []
        self._count = 0
        self.baton = threading.Lock()
        self.baton.acquire()

    def at(self, when: float, act: Callable[[], Any]) -> None:
        """Let `act` happen at that virtual time, in seconds."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._ties.random(), self._count, act))

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        self.at(self.now + seconds, act)

    def spawn(self, name: str, main: Callable[[], Any], on_switch: Callable[[], Any]) -> Fiber:
        """Start a fiber now. `on_switch` is called whenever it is about to run."""
        fiber = Fiber(self, name, main, on_switch)
        self.fibers.append(fiber)
        self.at(self.now, fiber.resume)
        return fiber

    def step(self) -> bool:
        """Let the next event happen; False if there is none."""
        if not self._heap:
            return False
        when, _, _, act = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        self.events += 1
        act()
        return True

    def end(self) -> None:
        """Unwind all fibers."""
        for fiber in self.fibers:
            if not fiber.done:
                fiber.killed = True
                fiber.go.release()
                self.baton.acquire()


class Fiber:
    """One thread of control, for which time passes only while it waits. `error`: what ended it.
    `waiting`: why it does not run, None while it does."""

    def __init__(
        self, loop: Loop, name: str, main: Callable[[], Any], on_switch: Callable[[], Any]
    ) -> None:
        self.loop, self.name = loop, name
        self._main, self._on_switch = main, on_switch
        self.go = threading.Lock()
        self.go.acquire()
        self.killed = self.done = False
        self.error: BaseException | None = None
        self.waiting: str | None = "start"
        self._ticket = 0
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.killed:
                self._main()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self.loop.baton.release()

    def resume(self) -> None:
        """Let it run until it waits again. Raises what ended it."""
        if self.done:
            return
        self.waiting = None
        self._ticket += 1
        self.loop.current = self
        self._on_switch()
        self.go.release()
        self.loop.baton.acquire()
        self.loop.current = None
        if self.error is not None:
            raise self.error

    # Called by its own thread

    def sleep(self, seconds: float) -> None:
        self.loop.after(max(0.0, seconds), self.resume)
        self._give_way("sleep")

    def park(self, why: str, timeout: float) -> bool:
        """Wait for `wake`; False if `timeout` seconds passed first."""
        ticket, late = self._ticket, []

        def expire() -> None:
            if self._ticket == ticket and not self.done:
                late.append(True)
                self.resume()

        self.loop.after(timeout, expire)
        self._give_way(why)
        return not late

    def _give_way(self, why: str) -> None:
        self.waiting = why
        self.loop.baton.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    # Called by other fibers and events

    def wake(self, seconds: float = 0.0) -> None:
        """End its `park` after so many seconds, unless it has ended by then."""
        ticket = self._ticket

        def go() -> None:
            if self._ticket == ticket and self.waiting not in (None, "sleep"):
                self.resume()

        self.loop.after(seconds, go)
