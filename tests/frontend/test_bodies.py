from __future__ import annotations

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sglang.srt.entrypoints.http_server import validate_json_request
from sglang.srt.entrypoints.openai.protocol import CompletionRequest

from amoeba_sglang.frontend.bodies import check_bodies


@pytest.fixture
def client():
    app = FastAPI()
    check_bodies(app)

    @app.post("/v1/completions", dependencies=[Depends(validate_json_request)])
    def complete(request: CompletionRequest) -> str:
        return "done"

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
