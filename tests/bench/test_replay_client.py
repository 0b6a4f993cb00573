"""The client against a stand-in that answers as OpenAI-compatible servers do."""

import asyncio
import time

import aiohttp
import pytest

from bench.layout_record import LayoutRecord
from bench.replay_client import OneServer, Replay, fetch_state, watch_layout
from bench.trace import TraceRequest
from tests.bench.stand_in import StandIn, Words


def replay(server, requests, timeout=20.0, dilation=1.0):
    ended = []

    async def use(url):
        client = Replay(
            OneServer(url), Words(), {"model": "m", "ignore_eos": True}, timeout, ended.append,
            dilation,
        )  # fmt: skip
        return await client.run(requests)

    outcomes = asyncio.run(server.run(use))
    assert len(ended) == len(outcomes)
    return outcomes


def test_requests_are_sent_when_due_and_their_tokens_timed():
    server = StandIn()
    outcomes = replay(server, [TraceRequest(0.0, 5, 4), TraceRequest(0.3, 6, 1)])
    first, second = outcomes
    assert (first.kind, first.prompt_tokens, first.completion_tokens) == ("done", 5, 4)
    assert (first.text, first.cached_tokens) == ("xxxx", 3)
    assert first.tpot >= 0.019 and first.ttft >= 0.019
    assert first.e2e == pytest.approx(first.ttft + 3 * first.tpot)
    assert second.sent >= 0.3 and second.tpot is None
    assert server.bodies[0] == {
        "model": "m", "ignore_eos": True, "prompt": "word " * 4 + "word", "max_tokens": 4,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "kind", "error"),
    [
        (StandIn.REJECTED, "rejected", '400: {"error": "too long"}'),
        (StandIn.BROKEN, "failed", "503"),
        (StandIn.CUT, "failed", "Client"),
        (StandIn.ABORTED, "failed", "finish reason abort"),
        (StandIn.SILENT, "failed", "no end within 1 s"),
        (StandIn.HUGE, "done", ""),
    ],
)
def test_every_end_has_its_kind_and_its_reason(tokens, kind, error):
    [outcome] = replay(StandIn(), [TraceRequest(0.0, tokens, 2)], timeout=1.0)
    assert outcome.kind == kind
    assert error in outcome.error


def test_a_server_that_is_not_there_fails_every_request():
    async def run():
        client = Replay(OneServer("http://127.0.0.1:9"), Words(), {}, 5.0)
        return await client.run([TraceRequest(0.0, 1, 1)] * 3)

    assert [outcome.kind for outcome in asyncio.run(run())] == ["failed"] * 3


def test_an_emulated_server_is_given_its_own_time():
    started = time.monotonic()
    [outcome] = replay(StandIn(step=0.2), [TraceRequest(0.05, 3, 2)], dilation=4.0)
    real = time.monotonic() - started
    # A token takes 0.2 real seconds, 0.05 of the device's.
    assert 0.045 <= outcome.ttft and 0.045 <= outcome.tpot
    assert 4 * (0.05 + outcome.ttft + outcome.tpot) <= real


def test_layout_changes_are_seen_and_a_server_without_layouts_is_served():
    server = StandIn()

    async def use(url):
        async with aiohttp.ClientSession() as session:
            record = LayoutRecord(await fetch_state(session, url))
            client = Replay(OneServer(url), Words(), {}, 20.0)
            watch = asyncio.create_task(watch_layout(url, record, client.clock))
            server.degree = 2
            await client.run([TraceRequest(0.8, 1, 1)])
            watch.cancel()
            server.degree = 0
            return record, await fetch_state(session, url)

    record, nothing = asyncio.run(server.run(use))
    assert [degrees for _, degrees in record.changes] == [(1, 1), (2, 2)]
    assert nothing is None
