"""The run: phases of hostile requests beside streams and changes; restarts after a death."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from bench.hostile.answers import UnreadableError, read_choices
from bench.hostile.beside import Changes, Memory, Streams
from bench.hostile.bodies import GENERATING
from bench.hostile.cases import Case, encode, shorten
from bench.hostile.client import new_client, send, send_plain
from bench.hostile.oracle import Reply, Verdict, judge
from tests.serving.servers import Server

PHASES = ("degree 1", "merged", "changes")
_LAST = 12
_DEATH_S = 20.0
_QUIET_S = 10.0
_PATIENCE_S = 240.0
_SHOWN = 400


@dataclass
class Failure:
    """One answer that is not right."""

    number: int
    phase: str
    kind: str
    why: str
    request: str
    body: str
    seconds: float


@dataclass
class Death:
    """An end of the server: what was in flight, what was answered before, and what it said."""

    phase: str
    in_flight: list[str]
    before: list[str]
    log: list[str]


@dataclass
class Plan:
    """What a run does; `transformations` is the least number of them."""

    cases: list[Case]
    workers: int
    concurrency: int = 4
    clients: int = 8
    transformations: int = 100
    most_deaths: int = 10


@dataclass
class Outcome:
    """All that was seen."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    long_refusals: int = 0
    slowest: tuple[float, str] = (0.0, "")
    left_behind: list[str] = field(default_factory=list)
    texts_compared: int = 0
    # Plain bodies whose answers could not be read.
    unread: list[str] = field(default_factory=list)


class Run:
    """One plan on servers that `start` gives; on a death the next one."""

    def __init__(self, plan: Plan, server: Server) -> None:
        self.plan, self.server = plan, server
        self.outcome = Outcome()
        self.streams, self.changes = Streams(plan.clients), Changes(plan.workers)
        self.memory = Memory()
        self.outages: list[tuple[float, float]] = []
        self._plain: dict[bytes, str] = {}
        self._in_flight: dict[int, Case] = {}
        self._recent: deque[str] = deque(maxlen=_LAST)
        self._dead = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._changer: asyncio.Task[None] | None = None

    async def go(self) -> Outcome:
        """All phases, then a look at what they left behind."""
        async with new_client() as client:
            await self.streams.take_reference(self.server.url)
            await self._take_plain(client)
            cases = self.plan.cases
            for number, phase in enumerate(PHASES):
                first, last = (len(cases) * part // len(PHASES) for part in (number, number + 1))
                if not self._has_given_up():
                    await self._phase(client, phase, deque(cases[first:last]))
            if not self._has_given_up():
                await self._finish()
        return self.outcome

    async def _take_plain(self, client: aiohttp.ClientSession) -> None:
        """Texts of the bodies that cases were made from, on the quiet server."""
        seen: set[bytes] = set()
        for case in self.plan.cases:
            key = _key(case)
            if case.route not in GENERATING or key in seen or not case.plain:
                continue
            seen.add(key)
            reply = await send_plain(client, self.server.url, case)
            try:
                choices = read_choices(case.route, reply.content_type, reply.body)
                self._plain[key] = choices[0].text
            except (UnreadableError, IndexError):
                # Its cases say what is wrong with it.
                self.outcome.unread.append(f"{case.route}: {reply.status} {reply.body[:200]!r}")

    async def _phase(self, client: aiohttp.ClientSession, phase: str, todo: deque[Case]) -> None:
        print(f"phase {phase}: {len(todo)} requests", flush=True)
        await self._begin(phase)
        while todo and not self._has_given_up():
            self._dead.clear()
            await asyncio.gather(
                *(self._client(client, phase, todo) for _ in range(self.plan.concurrency))
            )
            if self._dead.is_set():
                await self._bury(phase)
        deadline = time.monotonic() + _PATIENCE_S
        while phase == "changes" and self.changes.done < self.plan.transformations:
            if time.monotonic() > deadline or self.server.process.poll() is not None:
                break
            await asyncio.sleep(0.5)
        await self._end()

    async def _begin(self, phase: str) -> None:
        """Streams, memory, and the layout of the phase."""
        self._watch = asyncio.create_task(self.memory.watch(self.server))
        if phase != "changes":
            await self.changes.reach(self.server, 1 if phase == "degree 1" else self.plan.workers)
        else:
            self._changer = asyncio.create_task(self.changes.run(self.server))
        self.streams.start(self.server.url)

    async def _end(self) -> None:
        await self.streams.stop()
        self.changes.stop()
        if self._changer is not None:
            await self._changer
            self._changer = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _client(self, client: aiohttp.ClientSession, phase: str, todo: deque[Case]) -> None:
        while todo and not self._dead.is_set():
            case = todo.popleft()
            self._in_flight[case.number] = case
            reply = await send(client, self.server.url, case)
            if self._dead.is_set() or (_is_bad(reply) and await self._is_dead()):
                # Whatever was in flight is a suspect, and says nothing by itself.
                self._dead.set()
                return
            del self._in_flight[case.number]
            self._recent.append(case.describe())
            self._record(phase, case, reply)

    def _record(self, phase: str, case: Case, reply: Reply) -> None:
        out = self.outcome
        plain = self._plain.get(_key(case))
        verdict: Verdict = judge(case, reply, plain, phase)
        out.sent += 1
        out.texts_compared += case.same and plain is not None and reply.status == 200
        out.statuses[str(reply.status or "none")] += 1
        out.verdicts[verdict.failure or ("refused" if reply.status >= 400 else "served")] += 1
        out.long_refusals += reply.status >= 400 and len(reply.body) > 4000
        out.slowest = max(out.slowest, (round(reply.seconds, 2), case.describe()))
        if verdict.failure:
            failure = Failure(
                number=case.number,
                phase=phase,
                kind=verdict.failure,
                why=verdict.why[:_SHOWN],
                request=case.describe(),
                body=shorten(case.body, _SHOWN),
                seconds=round(reply.seconds, 2),
            )
            out.failures.append(failure)
            print(f"[{case.number}] {failure.kind}: {failure.request}: {failure.why[:160]!r}",
                  flush=True)  # fmt: skip

    async def _is_dead(self) -> bool:
        """Whether the server ends; one that does takes some seconds."""
        deadline = time.monotonic() + _DEATH_S
        while time.monotonic() < deadline:
            if self.server.process.poll() is not None:
                return True
            try:
                await asyncio.to_thread(self.server.generate, "Once", 1)
                return False
            except (OSError, RuntimeError):
                await asyncio.sleep(0.5)
        return True

    async def _bury(self, phase: str) -> None:
        """Record a death, start the next server and go on."""
        died = time.monotonic()
        suspects = [case.describe() for case in self._in_flight.values()]
        bodies = [shorten(case.body, _SHOWN) for case in self._in_flight.values()]
        self._in_flight.clear()
        await self._end()
        death = Death(
            phase, [f"{a} {b}" for a, b in zip(suspects, bodies, strict=True)],
            list(self._recent), self.server.tail(60).splitlines(),
        )  # fmt: skip
        self.outcome.sent += len(suspects)
        self.outcome.deaths.append(death)
        print(f"DEATH {len(self.outcome.deaths)} with {suspects}", flush=True)
        if self._has_given_up():
            return
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.__enter__)
        self.outages.append((died - _DEATH_S, time.monotonic()))
        await self._begin(phase)

    def _has_given_up(self) -> bool:
        return len(self.outcome.deaths) > self.plan.most_deaths

    async def _finish(self) -> None:
        """After some quiet nothing may run or wait, and no session or request may be left."""
        await self.changes.reach(self.server, 1)
        await asyncio.sleep(_QUIET_S)
        left = self.outcome.left_behind
        try:
            state = await asyncio.to_thread(self.server.state)
            left += [
                f"/amoeba/state: {i}" for i in state["instances"] if i["running"] + i["queued"]
            ]
            loads = (await asyncio.to_thread(self.server.get, "/v1/loads"))["loads"]
            for load in loads:
                counts = {k: load[k] for k in ("num_running_reqs", "num_waiting_reqs")}
                left += [f"/v1/loads: {counts}"] if any(counts.values()) else []
        except (OSError, LookupError, TypeError) as error:
            left.append(f"{type(error).__name__}: {error}")

    def changes_failed(self) -> list[str]:
        """Transformations that went wrong while the server lived."""
        return [
            problem.what
            for problem in self.changes.problems
            if not any(start <= problem.at <= end for start, end in self.outages)
        ]


def _is_bad(reply: Reply) -> bool:
    # Some APIs say the end of the server within a 400.
    return bool(reply.error) or reply.status >= 500 or b"503: " in reply.body[:200]


def _key(case: Case) -> bytes:
    return case.route.encode() + encode(case.plain)


def as_dicts(items: list[Any]) -> Iterator[dict[str, Any]]:
    yield from (asdict(item) for item in items)
