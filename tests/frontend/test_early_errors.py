import json

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, model_validator

from amoeba_sglang.frontend.early_errors import EarlyErrors


def answer_of(events: list[str], media_type: str = "text/event-stream"):
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.post("/generate")
    async def generate():
        async def stream():
            for event in events:
                yield f"data: {event}\n\n"

        return StreamingResponse(stream(), media_type=media_type)

    return TestClient(app).post("/generate")


ERROR = json.dumps({"error": {"message": "too long", "type": "x", "code": 400}})
ABORT = json.dumps(
    {"meta_info": {"finish_reason": {"type": "abort", "status_code": 503, "message": "gone"}}}
)
TOKEN = json.dumps({"text": "a", "meta_info": {"finish_reason": None}})


@pytest.mark.parametrize(
    ("first", "status", "message"), [(ERROR, 400, "too long"), (ABORT, 503, "gone")]
)
def test_a_first_error_is_the_status(first, status, message):
    answer = answer_of([first, "[DONE]"])
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize(
    "events",
    [
        [TOKEN, "[DONE]"],
        [TOKEN, ERROR, "[DONE]"],
        ["[DONE]"],
        ["not json"],
        ["[1]"],
        [],
        [json.dumps({"error": {"code": "weird"}})],
        [json.dumps({"meta_info": {"finish_reason": {"type": "abort"}}})],
        [json.dumps({"error": None, "choices": []})],
    ],
)
def test_other_streams_pass_unchanged(events):
    answer = answer_of(events)
    assert answer.status_code == 200
    assert answer.text == "".join(f"data: {event}\n\n" for event in events)


def test_only_event_streams_are_looked_at():
    assert answer_of([ERROR], "text/plain").status_code == 200


def test_plain_answers_pass():
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.post("/generate")
    async def generate():
        return JSONResponse({"error": {"code": 400}}, 418)

    answer = TestClient(app).post("/generate")
    assert (answer.status_code, answer.json()) == (418, {"error": {"code": 400}})


@pytest.mark.parametrize("streams", [False, True])
def test_a_value_error_that_a_route_lets_through_is_a_400(streams):
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.post("/api/chat")
    async def chat():
        async def stream():
            raise ValueError("top_p 2: too large")
            yield b""

        if streams:
            return StreamingResponse(stream(), media_type="application/x-ndjson")
        raise ValueError("top_p 2: too large")

    answer = TestClient(app).post("/api/chat")
    assert answer.status_code == 400
    assert "top_p 2" in answer.json()["error"]["message"]


def test_an_error_after_the_first_word_is_no_answer_of_its_own():
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.post("/api/chat")
    async def chat():
        async def stream():
            yield b"{}\n"
            raise ValueError("late")

        return StreamingResponse(stream(), media_type="application/x-ndjson")

    with pytest.raises(ValueError, match="late"):
        TestClient(app).post("/api/chat")


class Careless(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def read_tools(cls, values):
        values["tools"].startswith("x")
        return values


def test_a_body_that_a_validator_fails_on_is_a_400_and_other_failures_are_none():
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.post("/v1/messages")
    async def read(request: Careless):
        raise AssertionError

    @app.post("/broken")
    async def fail():
        raise AttributeError("ours")

    answer = TestClient(app).post("/v1/messages", json={"tools": ["x"]})
    assert answer.status_code == 400
    assert "read_tools" in answer.json()["error"]["message"]
    with pytest.raises(AttributeError, match="ours"):
        TestClient(app).post("/broken")


def test_a_query_that_is_refused_is_a_400():
    app = FastAPI()
    app.add_middleware(EarlyErrors)

    @app.get("/v1/loads")
    async def loads(include: str):
        raise ValueError(f"include {include!r}: unknown")

    answer = TestClient(app).get("/v1/loads?include=nope")
    assert answer.status_code == 400
    assert "include" in answer.json()["error"]["message"]
