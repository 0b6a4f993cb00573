import gzip
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sglang.srt.utils.auth import add_api_key_middleware

from amoeba_sglang.adapters.frontend.routes import add_routes
from amoeba_sglang.frontend.gate import Gate
from amoeba_sglang.frontend.pages import FILES


@pytest.fixture(scope="module")
def client():
    """Of a server that has both keys, as SGLang checks them."""
    app = FastAPI()
    add_routes(app, ask=None, feed=None)
    app.add_middleware(Gate)
    add_api_key_middleware(app, api_key="open", admin_api_key="sesame")
    return TestClient(app, follow_redirects=False)


def test_the_address_without_a_slash_leads_below_whatever_prefix_there_is(client):
    answer = client.get("/amoeba")
    assert (answer.status_code, answer.headers["location"]) == (307, "amoeba/")


def test_the_page_and_all_that_it_names_are_there(client):
    page = client.get("/amoeba/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^":]+)"', page.text)
    assert named
    for name in named:
        assert client.get(f"/amoeba/{name}").status_code == 200, name
    for script in FILES.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', script.read_text()):
            answer = client.get(f"/amoeba/{name}")
            assert answer.headers["content-type"].startswith("text/javascript"), name


def test_what_says_something_of_the_server_needs_the_key(client):
    for path in ("/amoeba/state", "/amoeba/events"):
        assert client.get(path).status_code == 401
    assert client.get("/amoeba/uplot.LICENSE").status_code == 401
    assert client.post("/amoeba/", headers={"authorization": "Bearer open"}).status_code == 405


def test_a_link_of_another_site_leads_there_and_nowhere_else(client):
    foreign = {"sec-fetch-site": "cross-site", "authorization": "Bearer open"}
    assert client.get("/amoeba/", headers=foreign).status_code == 200
    assert client.get("/amoeba/state", headers=foreign).status_code == 403


def test_a_head_has_no_body(client):
    assert client.head("/amoeba/main.js").status_code == 200


def test_the_page_asks_no_other_host_and_is_small():
    own = [file for file in FILES.iterdir() if not file.name.startswith("uplot")]
    for file in own:
        assert not re.search(r"https?://|//cdn", file.read_text()), file.name
    assert sum(file.stat().st_size for file in FILES.iterdir()) < 300_000
    assert sum(len(gzip.compress(file.read_bytes())) for file in own) < 20_000
    assert "MIT" in (FILES / "uplot.LICENSE").read_text()
