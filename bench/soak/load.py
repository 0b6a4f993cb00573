"""Clients of the soak: they send cases, leave or abort some, and compare what they get."""

import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.hostile.answers import Choice, UnreadableError, read_choices
from bench.soak.cases import CHAT, COMPLETIONS, GENERATE, STREAMED, Case
from bench.soak.reference import TOLERANCE, References, compare, distance
from tests.serving.load import new_session

_DISCONNECT, _ABORT = 0.12, 0.12
_PRIORITIES = (0, 0, 0, 0, 0, 5, 20)
_LONG_SHARE = 0.4
_NO_REPLY_S = 900.0
# Words of the refusal that says which layout would hold the request.
_RETRACTIONS = re.compile(rb'"num_retractions":(\d+)')
_WAY_OUT = b"merge instances with POST"


@dataclass
class Sent:
    """One request on its way. fate: "stays", "leaves" or "is aborted", after `chunks` chunks of its
    stream, or so many tenths of a second if it is not streamed."""

    case: Case
    rid: str
    fate: str
    chunks: int
    body: dict[str, Any]
    raw: bytearray = field(default_factory=bytearray)
    asked_abort: bool = False


class Load:
    """`clients` clients in a loop. `outcomes` counts (kind, outcome); `problems` says what was
    wrong. longs: whether requests that need merged instances are sent. may_refuse: whether such may
    be answered by 400, since nothing merges for them.
    """

    def __init__(
        self, url: str, cases: list[Case], references: References, clients: int,
        seed: int, may_refuse: bool,
    ) -> None:  # fmt: skip
        self.url, self.longs, self.may_refuse = url, True, may_refuse
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.problems: list[dict[str, Any]] = []
        self.worst_score = 0.0
        self.gaps: list[tuple[float, float]] = []
        self._references, self._rng = references, random.Random(seed)
        self._short = [case for case in cases if not case.tokens]
        self._long = [case for case in cases if case.tokens]
        self._numbers = itertools.count()
        self._open = asyncio.Event()
        self._open.set()
        self._busy: dict[str, Sent] = {}
        self._all_aborted = False
        self._session = new_session(_NO_REPLY_S)
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def pause(self, abort: bool = False) -> None:
        """Start no more requests and wait until none runs; with `abort` end those that run."""
        self._open.clear()
        if abort:
            self._all_aborted = True
            await self._post("/abort_request", {"abort_all": True})
        deadline = time.monotonic() + _NO_REPLY_S
        while self._busy and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def abort_longs(self) -> None:
        """End all requests that need merged instances."""
        for sent in [one for one in self._busy.values() if one.case.tokens]:
            await self._abort(sent)

    def resume(self) -> None:
        self._all_aborted = False
        self._open.set()

    async def close(self) -> None:
        """Leave whatever runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def flush(self) -> None:
        """Ask for empty caches, which a busy server refuses."""
        status, text = await self._post("/flush_cache", {})
        self.outcomes["flush_cache", str(status)] += 1
        if status not in (200, 400):
            self._complain("flush_cache", f"{status}: {text[:300]!r}")

    async def _client(self) -> None:
        while True:
            await self._open.wait()
            sent = self._choose()
            self._busy[sent.rid] = sent
            try:
                outcome = await self._serve(sent)
            except TimeoutError:
                outcome = "stuck"
                self._complain(sent.case.kind, "no end in time", sent)
            except (aiohttp.ClientError, ConnectionError) as error:
                outcome = "lost"
                self._complain(sent.case.kind, f"{type(error).__name__}: {error}", sent)
                await asyncio.sleep(1)
            finally:
                del self._busy[sent.rid]
            self.outcomes[sent.case.kind, outcome] += 1

    def _choose(self) -> Sent:
        rng = self._rng
        is_long = self.longs and self._long and rng.random() < _LONG_SHARE
        case = rng.choice(self._long if is_long else self._short)
        body = dict(case.body)
        # Of one width: SGLang's clients may abort by the beginning of an id.
        rid = f"soak-{next(self._numbers):07d}"
        fates = (_DISCONNECT, _ABORT, 1 - _DISCONNECT - _ABORT)
        [fate] = rng.choices(("leaves", "is aborted", "stays"), fates)
        if case.route in (GENERATE, CHAT, COMPLETIONS):
            body["rid"] = rid
            body["priority"] = rng.choice(_PRIORITIES)
        elif fate == "is aborted":
            fate = "leaves"
        if case.route in STREAMED and case.rule != "scores" and rng.random() < 0.7:
            body["stream"] = True
        return Sent(case, rid, fate, rng.randint(0, 40), body)

    async def _serve(self, sent: Sent) -> str:
        """Send, read and judge one request."""
        streamed = bool(sent.body.get("stream"))
        reader = asyncio.create_task(self._read(sent, streamed))
        try:
            if sent.fate != "stays" and not (streamed and sent.chunks):
                await asyncio.wait([reader], timeout=sent.chunks / 10)
                if sent.fate == "leaves":
                    return "disconnected"
                await self._abort(sent)
            status, content_type = await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if status is None:
            return "disconnected"
        return self._judge(sent, status, content_type)

    async def _read(self, sent: Sent, streamed: bool) -> tuple[int | None, str]:
        """Status and content type; None for one that was left in the middle of its stream."""
        count, last = 0, 0.0
        async with self._session.post(self.url + sent.case.route, json=sent.body) as reply:
            async for chunk in reply.content.iter_any():
                sent.raw += chunk
                if not streamed or reply.status != 200:
                    continue
                now, count = time.monotonic(), count + 1
                if last:
                    self.gaps.append((last, now))
                last = now
                if count == sent.chunks and sent.fate == "leaves":
                    return None, ""
                if count == sent.chunks and sent.fate == "is aborted":
                    await self._abort(sent)
            return reply.status, reply.content_type

    async def _abort(self, sent: Sent) -> None:
        sent.asked_abort = True
        await self._post("/abort_request", {"rid": sent.rid})

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        async with self._session.post(self.url + path, json=body) as reply:
            return reply.status, await reply.read()

    def _judge(self, sent: Sent, status: int, content_type: str) -> str:
        case, raw = sent.case, bytes(sent.raw)
        was_cut = sent.asked_abort or self._all_aborted
        if status == 400 and case.tokens and self.may_refuse and _WAY_OUT in raw:
            return "refused in this layout"
        if status != 200:
            if was_cut and status < 500:
                return "aborted"
            self._complain(case.kind, f"{status}: {raw[:300]!r}", sent)
            return "error"
        try:
            choices = read_choices(case.route, content_type, raw)
        except UnreadableError as error:
            if was_cut:
                return "aborted"
            self._complain(case.kind, f"{error}: {raw[-300:]!r}", sent)
            return "error"
        if not was_cut and any(choice.finish == "abort" for choice in choices):
            self._complain(case.kind, f"aborted by the server: {raw[-400:]!r}", sent)
            return "error"
        return self._compare(sent, choices, raw, was_cut)

    def _compare(self, sent: Sent, choices: list[Choice], raw: bytes, was_cut: bool) -> str:
        case, right = sent.case, self._references.of(sent.case)
        if case.forgets and any(map(int, _RETRACTIONS.findall(raw))):
            return "not compared, retracted"
        wrong = compare(case, right, choices, was_cut)
        if not wrong and case.rule == "scores" and not was_cut:
            far = distance(right, json.loads(raw))
            self.worst_score = max(self.worst_score, far)
            if far > TOLERANCE:
                wrong = f"log-probabilities differ by {far:.1e} of the largest"
        if wrong:
            self._complain(case.kind, wrong, sent)
            return "differs"
        return "aborted" if was_cut else "equal"

    def _complain(self, kind: str, what: str, sent: Sent | None = None) -> None:
        request = {} if sent is None else {"rid": sent.rid, "body": str(sent.body)[:600]}
        self.problems.append({"kind": kind, "what": what[:1500], "at": time.time(), **request})
        print(f"PROBLEM {kind}: {what[:300]}", flush=True)
