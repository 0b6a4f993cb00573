"""What streams feel of each switch from one degree to another."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.gpu_bench.sides import Load
from bench.results_file import spread
from bench.stagger import Session, prompt_of, stream_tokens
from tests.serving.load import new_session
from tests.serving.servers import Server


def walk(degrees: Sequence[int]) -> list[int]:
    """Degrees from 1 back to 1, every one following every other exactly once."""
    left = {degree: [other for other in degrees if other != degree] for degree in degrees}
    path, stack = [], [1]
    while stack:
        ways = left[stack[-1]]
        if ways:
            stack.append(ways.pop())
        else:
            path.append(stack.pop())
    return path[::-1]


def measure(server: Server, load: Load) -> dict[str, Any]:
    """By switch: gaps, steps and bytes; and what its streams had to have computed again."""
    return asyncio.run(_measure(server, load))


async def _measure(server: Server, load: Load) -> dict[str, Any]:
    state = server.state()
    ranks, degrees = list(range(state["workers"])), state["degrees"]
    session, made = Session([]), []
    async with new_session() as http:
        streams = [
            asyncio.create_task(_stream(http, server, load, number, session))
            for number in range(load.streams * len(ranks))
        ]
        try:
            while len([a for a in session.arrivals if len(a) > 2]) < len(streams):
                _require_alive(streams)
                await asyncio.sleep(0.1)
            for before, after in itertools.pairwise(walk(degrees) * load.rounds):
                if before == after:
                    continue
                begun = time.monotonic()
                await asyncio.sleep(load.quiet_s)
                started = time.monotonic()
                session.quiet.append((begun, started, before))
                status, reply = await asyncio.to_thread(server.transform, ranks, after)
                assert status == 200, reply
                session.operations.append((started, time.monotonic(), f"{before}->{after}", reply))
                made.append(reply)
                _require_alive(streams)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
    await asyncio.to_thread(server.wait_until_idle)
    return {name: _figures(session, name) for name in sorted({o[2] for o in session.operations})}


def _require_alive(streams: list[asyncio.Task[None]]) -> None:
    for stream in streams:
        if stream.done():
            stream.result()


async def _stream(http: Any, server: Server, load: Load, number: int, session: Session) -> None:
    """One request after the other; each has arrivals of its own, so that no gap is between two."""
    for again in itertools.count():
        arrivals: list[float] = []
        session.arrivals.append(arrivals)
        prompt = prompt_of(number + 1000 * again, load.prompt_tokens)
        rank = number // load.streams
        await stream_tokens(
            http, server, prompt, 20 * load.output_tokens, rank=rank, arrivals=arrivals
        )


def _figures(session: Session, name: str) -> dict[str, Any]:
    before = int(name.split("->")[0])
    spans = [(start, end) for start, end, degree in session.quiet if degree == before]
    plain = [gap for start, end in spans for gap in session.gaps(start, end, inside=True)]
    usual = statistics.median(plain) if plain else 0.0
    longest, replies = [], []
    for start, end, which, reply in session.operations:
        if which == name:
            longest.append(max(session.gaps(start, end, inside=False), default=0.0))
            replies.append(reply)
    steps = [1e3 * (r["longest_step_seconds"] - r["step_seconds"]) for r in replies]
    return {
        "usual_gap_ms": 1e3 * usual,
        "longest_gap_ms": spread([1e3 * gap for gap in longest]),
        "added_to_a_step_ms": spread(steps),
        "until_it_begins_ms": spread(
            [1e3 * (r["prepare_seconds"] + r["lockstep_seconds"]) for r in replies]
        ),
        "seconds": spread([r["seconds"] for r in replies]),
        "bytes_moved": {
            what: spread([r["bytes_moved"][what] for r in replies]) for what in ("kv", "weights")
        },
        "pace": replies[-1]["pace"],
    }


def path_of(degrees: Sequence[int], count: int) -> Iterator[int]:
    """The degrees of so many switches along the walk, the first of them from degree 1."""
    return itertools.islice(itertools.cycle(walk(degrees)[1:]), count)
