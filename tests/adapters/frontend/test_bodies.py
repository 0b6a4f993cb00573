import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sglang.srt.entrypoints.http_server import validate_json_request
from sglang.srt.entrypoints.openai.protocol import CompletionRequest, DetokenizeRequest

from amoeba_sglang.adapters.frontend.bodies import check_bodies
from amoeba_sglang.frontend.early_errors import EarlyErrors


@pytest.fixture
def client():
    app = FastAPI()
    app.add_middleware(EarlyErrors)
    check_bodies(app, lambda: 1000)

    @app.post("/v1/completions", dependencies=[Depends(validate_json_request)])
    def complete(request: CompletionRequest) -> str:
        return "done"

    @app.post("/detokenize", dependencies=[Depends(validate_json_request)])
    def detokenize(request: DetokenizeRequest) -> str:
        return "text"

    return TestClient(app)


def test_session_params_are_refused_instead_of_dropped(client):
    body = {"model": "m", "prompt": "Hi"}
    assert client.post("/v1/completions", json=body).json() == "done"
    assert client.post("/v1/completions", json={**body, "session_params": None}).json() == "done"
    answer = client.post("/v1/completions", json={**body, "session_params": {"id": "s"}})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("session_params: Amoeba does not support sessions")


def test_the_content_type_is_still_checked(client):
    answer = client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 422


@pytest.mark.parametrize("body", ["7", '"x"', "null", "[]", "[{}]"])
def test_a_body_that_is_no_object_is_refused(client, body):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert "body" in answer.text


def test_ids_outside_the_vocabulary_are_no_text(client):
    for tokens in ([1, 999], [[1], [2]], []):
        assert client.post("/detokenize", json={"model": "m", "tokens": tokens}).json() == "text"
    for tokens in ([1, 1000], [-1], [[1], [2**31]], [True]):
        answer = client.post("/detokenize", json={"model": "m", "tokens": tokens})
        assert answer.status_code == 400
        assert "tokens" in answer.text


@pytest.mark.parametrize("field", ["response_format", "reasoning", "chat_template_kwargs"])
def test_a_field_that_is_read_as_an_object_must_be_one(client, field):
    for value, status in ((None, 200), ([["x"]], 400), ("x", 400), (7, 400)):
        answer = client.post("/v1/completions", json={"model": "m", "prompt": "Hi", field: value})
        assert answer.status_code == status
        assert status == 200 or field in answer.text


@pytest.mark.parametrize("value", [-1, 2**63, "5", True])
def test_an_output_length_that_cannot_be_is_refused_before_a_stream_begins(client, value):
    answer = client.post(
        "/v1/completions", json={"model": "m", "prompt": "Hi", "max_tokens": value}
    )
    assert answer.status_code == 400
    assert "max_tokens" in answer.text
