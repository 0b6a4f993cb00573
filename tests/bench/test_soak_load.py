"""Clients of the soak against a stand-in that answers as told."""

import asyncio
import json

import pytest
from aiohttp import web

from bench.soak.cases import GENERATE, Case
from bench.soak.load import Load
from bench.soak.reference import Reference, References, key

SHORT = Case("ids", GENERATE, {"input_ids": [1], "sampling_params": {"max_new_tokens": 4}})
LONG = Case("long", GENERATE, {"input_ids": [2], "sampling_params": {}}, tokens=900)
TEXT = "abcd"


class StandIn:
    """Answers /generate with the beginnings of `text`, or with `status` and `error`."""

    def __init__(self, text=TEXT, status=200, error="", cut=False):
        self.text, self.status, self.error, self.cut = text, status, error, cut
        self.aborted = set()

    def event(self, body, made):
        done = made == len(self.text)
        ended = "abort" if body["rid"] in self.aborted else "length" if done else None
        meta = {"finish_reason": ended and {"type": ended}, "completion_tokens": made}
        return {"text": self.text[:made], "meta_info": meta}, ended

    async def generate(self, request):
        body = await request.json()
        if self.status != 200:
            return web.Response(status=self.status, text=self.error)
        if not body.get("stream"):
            await asyncio.sleep(0.01)
            return web.json_response(self.event(body, len(self.text))[0])
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for made in range(1, len(self.text) + 1):
            event, ended = self.event(body, made)
            await reply.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.002)
            if ended:
                break
            if self.cut:
                request.transport.close()
                return reply
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def abort(self, request):
        self.aborted.add((await request.json()).get("rid"))
        return web.json_response({})

    async def flush(self, request):
        return web.Response(status=400)


def serve(tmp_path, stand_in, case=SHORT, may_refuse=False, requests=60):
    path = tmp_path / "known.json"
    known = {key(case): vars(Reference([[TEXT, "length"]], 1.0)), key(SHORT): {}}
    known[key(SHORT)] = vars(Reference([[TEXT, "length"]], 1.0))
    path.write_text(json.dumps(known))

    async def run():
        app = web.Application()
        app.router.add_post("/generate", stand_in.generate)
        app.router.add_post("/abort_request", stand_in.abort)
        app.router.add_post("/flush_cache", stand_in.flush)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        load = Load(url, [SHORT, case], References(path), 4, seed=1, may_refuse=may_refuse)
        async with asyncio.timeout(30):
            while sum(load.outcomes.values()) < requests:
                await asyncio.sleep(0.01)
        await load.flush()
        await load.close()
        await runner.cleanup()
        return load

    return asyncio.run(run())


def outcomes(load, kind="ids"):
    return {outcome: count for (one, outcome), count in load.outcomes.items() if one == kind}


def test_right_answers_are_equal_and_some_clients_leave_or_abort(tmp_path):
    load = serve(tmp_path, StandIn(), requests=200)
    assert load.problems == []
    found = outcomes(load)
    assert set(found) == {"equal", "disconnected", "aborted"}
    assert found["equal"] > 10
    assert outcomes(load, "flush_cache") == {"400": 1}
    assert load.gaps


@pytest.mark.parametrize(
    ("stand_in", "outcome", "what"),
    [
        (StandIn(text="abxd"), "differs", "in place of"),
        (StandIn(status=503, error="the server ends"), "error", "503"),
        (StandIn(status=400, error="merge instances with POST"), "error", "400"),
        (StandIn(cut=True), "lost", "Error"),
    ],
)
def test_what_is_wrong_is_said_with_its_request(tmp_path, stand_in, outcome, what):
    load = serve(tmp_path, stand_in, requests=16)
    assert outcomes(load)[outcome] > 0
    assert any(what in problem["what"] and problem["body"] for problem in load.problems)


def test_a_long_request_may_be_refused_only_where_nothing_merges_for_it(tmp_path):
    refusal = StandIn(status=400, error="merge instances with POST /amoeba/transform")
    by_hand = serve(tmp_path, refusal, LONG, may_refuse=True)
    assert outcomes(by_hand, "long")["refused in this layout"] > 0
    by_policy = serve(tmp_path, refusal, LONG, may_refuse=False)
    assert outcomes(by_policy, "long")["error"] > 0
