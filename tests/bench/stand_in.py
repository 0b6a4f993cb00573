"""A server that answers as OpenAI-compatible ones do, and prompts for it."""

import asyncio
import json

from aiohttp import web


class Words:
    """Prompts whose tokens are words."""

    def make(self, number, tokens):
        return " ".join(["word"] * tokens)


class StandIn:
    """Serves one token a `step` seconds; prompts of special lengths go wrong in their own way."""

    REJECTED, BROKEN, CUT, ABORTED, SILENT, HUGE = range(901, 907)

    def __init__(self, step=0.02, emulated=None):
        self.step, self.bodies, self.degree, self.emulated = step, [], 1, emulated

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
        return web.json_response({"instances": instances, "history": [], "EMULATED": self.emulated})

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
