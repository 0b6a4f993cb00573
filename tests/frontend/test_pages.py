import gzip
import re

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from amoeba_sglang.frontend.pages import FILES, Pages


@pytest.fixture(scope="module")
def client():
    async def below(request):
        return PlainTextResponse(f"below {request.url.path}")

    routes = [Route("/{rest:path}", below, methods=["GET", "POST"])]
    app = Starlette(routes=routes)
    app.add_middleware(Pages)
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


def test_what_is_no_file_is_somebody_else_s(client):
    for path in ("/amoeba/state", "/amoeba/uplot.LICENSE", "/amoeba/../config.py", "/", "/amoebas"):
        assert client.get(path).text.startswith("below")
    assert client.post("/amoeba/").text.startswith("below")


def test_a_head_has_no_body(client):
    assert client.head("/amoeba/main.js").content == b""


def test_the_page_asks_no_other_host_and_is_small():
    own = [file for file in FILES.iterdir() if not file.name.startswith("uplot")]
    for file in own:
        assert not re.search(r"https?://|//cdn", file.read_text()), file.name
    assert sum(file.stat().st_size for file in FILES.iterdir()) < 300_000
    assert sum(len(gzip.compress(file.read_bytes())) for file in own) < 20_000
    assert "MIT" in (FILES / "uplot.LICENSE").read_text()
