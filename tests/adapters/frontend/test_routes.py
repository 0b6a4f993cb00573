import asyncio
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sglang.srt.utils.auth import add_api_key_middleware

from amoeba_sglang.adapters.frontend.routes import add_routes
from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.feed import Feed


class FakeRouter:
    """Answers like the router process, and keeps what it was asked."""

    def __init__(self, status=200, body=None, error=None):
        self.status, self.body, self.error, self.asked = status, body or {}, error, []

    async def ask(self, kind, body):
        self.asked.append((kind, body))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(status=self.status, body=self.body)

    async def view(self, since):
        return (await self.ask("view", {"since": since})).body


def client_of(fake: FakeRouter, **keys: str) -> TestClient:
    app = FastAPI()
    add_routes(app, fake.ask, lambda: Feed(fake.view, dict))
    if keys:
        add_api_key_middleware(app, api_key=None, admin_api_key=keys["admin_api_key"])
    return TestClient(app)


def test_state_is_the_router_s_answer():
    fake = FakeRouter(body={"workers": 4})
    answer = client_of(fake).get("/amoeba/state")
    assert (answer.status_code, answer.json()) == (200, {"workers": 4})
    assert fake.asked == [("state", {})]


def test_loads_are_a_plain_list_as_the_gateway_reads_them():
    loads = [{"dp_rank": 0, "num_tokens": 7}]
    fake = FakeRouter(body={"loads": loads})
    assert client_of(fake).get("/get_load").json() == loads
    assert fake.asked == [("load", {})]
    ending = client_of(FakeRouter(503, {"error": "a worker died"})).get("/get_load")
    assert (ending.status_code, ending.json()) == (503, {"error": "a worker died"})
    absent = FakeRouter(error=RequestError(504, "the router did not answer"))
    assert client_of(absent).get("/get_load").status_code == 504


@pytest.mark.parametrize("status", [200, 202, 400, 409, 504])
def test_transform_has_the_router_s_status(status):
    fake = FakeRouter(status, {"operation_id": "a"})
    body = {"ranks": [0, 1], "degree": 2, "operation_id": "a", "wait": True}
    answer = client_of(fake).post("/amoeba/transform", json=body)
    assert (answer.status_code, answer.json()) == (status, {"operation_id": "a"})
    assert fake.asked == [("transform", body)]


def test_bad_bodies_do_not_reach_the_router():
    fake = FakeRouter()
    for content in (b"{", b"[]", b'{"ranks": [1, 0], "degree": 2}'):
        answer = client_of(fake).post("/amoeba/transform", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]
    assert fake.asked == []


def test_an_absent_router_is_an_error():
    fake = FakeRouter(error=RequestError(504, "the router did not answer"))
    answer = client_of(fake).get("/amoeba/state")
    assert (answer.status_code, answer.json()) == (504, {"error": "the router did not answer"})


def test_an_admin_key_guards_transform():
    client = client_of(FakeRouter(), admin_api_key="secret")
    body = {"ranks": [0], "degree": 1}
    assert client.post("/amoeba/transform", json=body).status_code == 401
    key = {"Authorization": "Bearer secret"}
    assert client.post("/amoeba/transform", json=body, headers=key).status_code == 200


def test_events_are_sent_as_they_come():
    fake = FakeRouter(body={"now": 1.0})

    async def read():
        app = FastAPI()
        feed = Feed(fake.view, dict)
        add_routes(app, fake.ask, lambda: feed)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            task = asyncio.create_task(client.get("/amoeba/events"))
            while not feed.watched or not fake.asked:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            feed.end("it is over")
            return await task

    answer = asyncio.run(asyncio.wait_for(read(), 20))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [line for line in answer.text.split("\n") if line.startswith("event")] == [
        "event: view",
        "event: end",
    ]


def test_events_that_cannot_be_had_are_refused_with_the_reason():
    fake = FakeRouter(error=RequestError(503, "the server ends"))
    answer = client_of(fake).get("/amoeba/events")
    assert (answer.status_code, answer.json()) == (503, {"error": "the server ends"})
