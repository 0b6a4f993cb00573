import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient

from amoeba_sglang.frontend.gate import Gate, foreign_page

HOST = "127.0.0.1:30000"
OTHER_PAGES = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:8080"},
    {"origin": "http://[::1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]
OWN_PAGES = [
    {},
    {"origin": f"http://{HOST}"},
    {"sec-fetch-site": "none"},
    {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"},
]


@pytest.fixture(scope="module")
def client():
    """SGLang's application as far as it matters: CORS for everybody, and two kinds of routes."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])
    app.add_middleware(Gate)

    @app.api_route("/flush_cache", methods=["GET", "POST"])
    @app.post("/brand_new")
    @app.post("/v1/completions")
    @app.post("/open_session")
    def answer() -> str:
        return "done"

    return TestClient(app, base_url=f"http://{HOST}")


@pytest.mark.parametrize("headers", OTHER_PAGES, ids=str)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_other_sites_get_no_control_endpoint(client, headers, method):
    preflight = {"access-control-request-method": "POST"} if method == "OPTIONS" else {}
    answer = client.request(method, "/flush_cache", headers={**headers, **preflight})
    assert answer.status_code == 403
    assert "closed to web pages" in answer.json()["error"]["message"]
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("headers", OWN_PAGES, ids=str)
def test_other_clients_and_own_pages_are_served(client, headers):
    for method in ("GET", "POST"):
        assert client.request(method, "/flush_cache", headers=headers).json() == "done"


def test_pages_of_other_sites_may_infer_and_nothing_that_is_unknown(client):
    page = {"origin": "http://evil.example"}
    assert client.post("/v1/completions", headers=page).headers["access-control-allow-origin"]
    assert client.post("/brand_new", headers=page).status_code == 403
    assert client.post("/brand_new").json() == "done"


def test_a_host_is_the_same_with_and_without_its_usual_port():
    def reason(origin, host):
        return foreign_page([(b"host", host.encode()), (b"Origin", origin.encode())], "http")

    for origin, host in (
        ("http://box", "box:80"),
        ("https://box", "box"),
        ("https://box:443", "BOX"),
        ("http://[::1]:30000", "[::1]:30000"),
    ):
        assert reason(origin, host) is None
    assert reason("https://box", "box:30000") is not None
    assert reason("http://box:30001", "box:30000") is not None


def test_what_is_not_served_is_refused_by_name(client):
    answer = client.post("/open_session", json={"capacity_of_str_len": 1})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("POST /open_session: sessions are not supported")
    assert "\n" not in message
    assert client.post("/dumper/configure").status_code == 400
    assert client.put("/hicache/storage-backend").status_code == 400
    assert client.get("/hicache/storage-backend").status_code == 404
