"""The client against a stand-in that answers as OpenAI-compatible servers do."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from bench.layout_record import LayoutRecord
from bench.replay_client import OneServer, Replay, fetch_state, watch_layout
from bench.trace import TraceRequest


class Words:
    """Prompts whose tokens are words."""

    def make(self, number, tokens):
        return " ".join(["word"] * tokens)


class StandIn:
    """Serves one token a `step` seconds; prompts of special lengths go wrong in their own way."""

    REJECTED, BROKEN, CUT, ABORTED, SILENT, HUGE = range(901, 907)

    def __init__(self, step=0.02):
        self.step, self.bodies, self.degree = step, [], 1

    async def complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        tokens = len(body["prompt"].split())
        if tokens == self.REJECTED:
            return web.json_response({"error": "too long"}, status=400)
        if tokens == self.BROKEN:
            return web.json_response({"error": "no worker"}, status=503)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for number in range(body["max_tokens"]):
            await asyncio.sleep(60 if tokens == self.SILENT else self.step)
            last = number + 1 == body["max_tokens"]
            if last and tokens == self.CUT:
                request.transport.close()
                return reply
            text = "x" * (300_000 if tokens == self.HUGE else 1)
            finish = "abort" if tokens == self.ABORTED else "length"
            choice = {"text": text, "finish_reason": finish if last else None}
            await self.send(reply, {"choices": [choice]})
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": 3},
        }
        await self.send(reply, {"choices": [], "usage": usage})
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def send(self, reply, chunk):
        await reply.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def state(self, request):
        if not self.degree:
            raise web.HTTPNotFound
        ranks = [[0, 1]] if self.degree == 2 else [[0], [1]]
        instances = [{"ranks": r, "degree": len(r)} for r in ranks]
        return web.json_response({"instances": instances, "history": []})

    async def run(self, use):
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_get("/amoeba/state", self.state)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await use(f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()


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
    [outcome] = replay(StandIn(step=0.2), [TraceRequest(0.05, 3, 2)], dilation=4.0)
    # A token takes 0.2 real seconds, 0.05 of the device's.
    assert 0.045 <= outcome.ttft < 0.15 and 0.045 <= outcome.tpot < 0.15


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
