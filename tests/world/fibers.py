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
    first. `current`: the fiber that runs now, or None. `events`: how many have happened.

    Events happen on the thread of whichever fiber has given way last: most often the next to run is
    the same one, and no thread has to wake another.
    """

    def __init__(self, seed: object) -> None:
        self.now, self.events = 0.0, 0
        self.current: Fiber | None = None
        self.fibers: list[Fiber] = []
        self._ties = Random(f"{seed}/ties")
        self._heap: list[tuple[float, float, int, Callable[[], Any]]] = []
        self._count = 0
        self._over: Callable[[], bool] = lambda: False
        self._resumed: Fiber | None = None
        self._error: BaseException | None = None
        self._baton = threading.Lock()
        self._baton.acquire()

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

    def run(self, over: Callable[[], bool]) -> None:
        """Let events happen until `over`, asked before each of them, says so, or none is left.
        Raises what ends an event or a fiber."""
        self._over, self._error = over, None
        self.pass_on(self.next_fiber())
        self._baton.acquire()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Unwind all fibers."""
        self._over = lambda: True
        for fiber in self.fibers:
            if not fiber.done:
                fiber.killed = True
                self.pass_on(fiber)
                self._baton.acquire()

    # Called by the thread that has the baton

    def next_fiber(self) -> Fiber | None:
        """Let events happen until a fiber is to run, which is returned; None: the caller of `run`
        is to go on."""
        try:
            while self._heap and not self._over():
                when, _, _, act = heapq.heappop(self._heap)
                self.now = max(self.now, when)
                self.events += 1
                act()
                if self._resumed is not None:
                    fiber, self._resumed = self._resumed, None
                    return fiber
        except BaseException as error:
            self._error = error
        return None

    def resume(self, fiber: Fiber) -> None:
        """Let this fiber run after the event that happens now: one at most."""
        assert self._resumed is None
        self._resumed = fiber

    def pass_on(self, fiber: Fiber | None) -> None:
        """Give the baton to a fiber, or to the caller of `run`."""
        (self._baton if fiber is None else fiber.go).release()

    def fail(self, error: BaseException) -> None:
        """Let `run` raise this, once it has the baton."""
        self._error = error


class Fiber:
    """One thread of control, for which time passes only while it waits. `waiting`: why it does not
    run, None while it does."""

    def __init__(
        self, loop: Loop, name: str, main: Callable[[], Any], on_switch: Callable[[], Any]
    ) -> None:
        self.loop, self.name = loop, name
        self._main, self._on_switch = main, on_switch
        self.go = threading.Lock()
        self.go.acquire()
        self.killed = self.done = False
        self.waiting: str | None = "start"
        self._ticket = 0
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        self.go.acquire()
        error = None
        try:
            if not self.killed:
                self._begin()
                self._main()
        except Killed:
            pass
        except BaseException as raised:
            error = raised
        self.done, self.loop.current = True, None
        if error is not None:
            self.loop.fail(error)
        ends = error is not None or self.killed
        self.loop.pass_on(None if ends else self.loop.next_fiber())

    def _begin(self) -> None:
        """It runs from here on."""
        self.waiting = None
        self._ticket += 1
        self.loop.current = self
        self._on_switch()

    def resume(self) -> None:
        """Let it run, after the event that happens now, until it waits again."""
        if not self.done:
            self.loop.resume(self)

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
        self.waiting, self.loop.current = why, None
        fiber = self.loop.next_fiber()
        if fiber is not self:
            self.loop.pass_on(fiber)
            self.go.acquire()
        if self.killed:
            raise Killed
        self._begin()

    # Called by other fibers and events

    def wake(self, seconds: float = 0.0) -> None:
        """End its `park` after so many seconds, unless it has ended by then."""
        ticket = self._ticket

        def go() -> None:
            if self._ticket == ticket and self.waiting not in (None, "sleep"):
                self.resume()

        self.loop.after(seconds, go)
