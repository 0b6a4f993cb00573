"""Who changes the layout: a random walk by hand, or requests that a policy merges for."""

import asyncio
import random
import time
from collections import Counter
from typing import Any

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from bench.layout_record import degrees_of
from bench.soak.load import Load
from tests.serving.servers import Server

_ORDER_S = 300.0
_WAVE_S = 20.0
_POLL_S = 0.2
_LONG_TIMES = 0.7
# Of the waves: nobody waits for the ends of their requests, which take a minute here.
_CUT_SHARE = 0.8
# Seconds between two orders of a walk: often none, and sometimes long enough for requests to end.
_PAUSES_S = (0.0, 0.0, 0.5, 2.0)


class Walk:
    """Posts orders. `outcomes` counts (status, outcome), `made` has what was carried out, with the
    times of the order and its answer; `problems`: answers that are no outcome of a healthy server.
    """

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server, self._rng = server, rng
        self.chain = DegreeChain(tuple(server.state()["degrees"]))
        self.outcomes: Counter[str] = Counter()
        self.made: list[dict[str, Any]] = []
        self.problems: list[str] = []

    async def step(self) -> bool:
        """One random change to another layout; whether it was carried out."""
        layout = Layout(degrees_of(await asyncio.to_thread(self.server.state)))
        ranks, degree = self._rng.choice(list(layout.orders(self.chain)))
        return await self.order(ranks, degree)

    async def settle(self, degree: int) -> bool:
        """Bring all workers to `degree`; they are one block."""
        return await self.order(range(self.chain.finest), degree)

    async def order(self, ranks: range, degree: int) -> bool:
        posted = time.monotonic()
        body = {"ranks": list(ranks), "degree": degree}
        status, reply = await asyncio.to_thread(
            self.server.post, "/amoeba/transform", body, timeout=_ORDER_S
        )
        outcome = reply.get("outcome", "refused") if isinstance(reply, dict) else "error"
        self.outcomes[f"{status} {outcome}"] += 1
        if status == 200 and outcome == "done":
            self.made.append({**reply, "posted": posted, "answered": time.monotonic()})
        elif status not in (200, 409, 504):
            self.problems.append(f"{ranks} -> {degree}: {status} {str(reply)[:500]}")
        return status == 200


class Tour:
    """Goes from layout to layout; who needs a merged instance comes as long as nothing is refused
    for him."""

    def __init__(self, walk: Walk, load: Load, rng: random.Random) -> None:
        self._walk, self._load, self._rng = walk, load, rng

    async def step(self) -> None:
        if await self._walk.step():
            self._load.longs = self._rng.random() < _LONG_TIMES
            await asyncio.sleep(self._rng.choice(_PAUSES_S))
        else:
            self._load.longs = False
            await asyncio.sleep(self._rng.random())


class Waves:
    """Lets requests come that need merged instances until there are some, then none until all have
    split, or abort them; now and then an operator puts his hand in, and always while the rules
    themselves keep everything merged."""

    def __init__(self, walk: Walk, load: Load, rng: random.Random) -> None:
        self._walk, self._load, self._rng = walk, load, rng
        self._number = 0

    async def step(self) -> None:
        self._number += 1
        base = (await self._state())["base_degree"]
        by_hand = self._number % 5 == 0 or base == self._walk.chain.finest
        self._load.longs = True
        if by_hand:
            await self._walk.step()
        else:
            await self._wait_for(lambda degrees: max(degrees) > base)
        await asyncio.sleep(self._rng.random() * 2)
        self._load.longs = False
        if by_hand or self._rng.random() < _CUT_SHARE:
            await self._load.abort_longs()
        # What an operator has chosen stays so until he asks for the base degree, which may change.
        deadline = time.monotonic() + _WAVE_S
        while by_hand and time.monotonic() < deadline:
            base = (await self._state())["base_degree"]
            if await self._walk.settle(base):
                break
            await asyncio.sleep(_POLL_S)
        await self._wait_for(lambda degrees: max(degrees) <= base)

    async def _state(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._walk.server.state)

    async def _wait_for(self, reached: Any) -> None:
        deadline = time.monotonic() + _WAVE_S
        while time.monotonic() < deadline:
            if reached(degrees_of(await self._state())):
                return
            await asyncio.sleep(_POLL_S)
