"""The page below a path of a proxy, and of a server that is larger than any here."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router.events import ViewAsked
from tests.control.router.values import CAPACITY, LONG, Case
from tests.page.conftest import PHONE, wait_live
from tests.serving.browser import LAPTOP

PREFIX = "/models/small"


@contextmanager
def proxy(url: str) -> Iterator[str]:
    """The address of a server at `url` below a path, as a reverse proxy gives it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path.startswith(PREFIX)
            target = url + self.path.removeprefix(PREFIX)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {"content-type": self.headers.get("content-type", "")}
            with httpx.stream(self.command, target, headers=headers, content=body) as reply:
                self.send_response(reply.status_code)
                for name in ("content-type", "location", "content-security-policy"):
                    if name in reply.headers:
                        self.send_header(name, reply.headers[name])
                self.end_headers()
                for part in reply.iter_raw():
                    self.wfile.write(part)
                    self.wfile.flush()

        do_POST = do_GET

        def log_message(self, *_):
            pass

        def handle(self):
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = threading.Thread(target=server.serve_forever)
    running.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    finally:
        server.shutdown()
        running.join()


def test_it_works_behind_a_path_prefix(server, page):
    with proxy(server.url) as url:
        page.goto(f"{url}/amoeba")
        assert page.url == f"{url}/amoeba/"
        wait_live(page)
        for text in ("merge ranks 0–1", "split ranks 0–1"):
            page.get_by_role("button", name=text, exact=True).first.click()
            kind = text.split()[0]
            page.wait_for_function(
                "text => document.querySelector('#log').innerText.includes(text)",
                arg=f"{kind} of ranks 0–1 to degree {2 if kind == 'merge' else 1}: done",
            )
        assert not page.problems
        page.goto("about:blank")


def look_at(workers: int) -> dict[str, Any]:
    """The view of a server: merges of every degree, and long requests that wait."""
    chain = DegreeChain((1, 2, 4, 8))
    capacity = replace(CAPACITY, grown_tokens={1: 0, 2: 60, 4: 200, 8: 500})
    case = Case(POLICIES["amoeba"], (1,) * workers, workers=workers, chain=chain, capacity=capacity)
    for epoch, (first, degree) in enumerate([(0, 8), (8, 4), (16, 2), (24, 2)], 1):
        case.now += 20.0
        ranks = range(first, first + degree)
        case.transform(ranks, degree, f"op-{epoch}")
        case.now += 0.1
        case.finish(*ranks, epoch=epoch)
    for number in range(40):
        case.arrive(rid=f"{number:032x}", **LONG)
    [answer] = case.tell(ViewAsked("page", None))
    return {**answer.body, "about": {"model": "a-model-of-a-name-that-is-not-short-by-any-means"}}


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_it_shows_64_workers(server, page, size, tmp_path):
    view = look_at(64)
    told = f"event: view\ndata: {json.dumps(view)}\n\n"
    page.route("**/amoeba/events", lambda route: route.fulfill(
        body=told, content_type="text/event-stream"))  # fmt: skip
    page.set_viewport_size(size)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{server.url}/amoeba/")
    page.wait_for_selector("#instances strong")
    assert page.locator("#instances li").count() == 64 - 7 - 3 - 1 - 1
    assert "ranks 0–7 · degree 8" in page.inner_text("#instances")
    assert 32 < view["long_waiting"] < 40
    assert f"{view['long_waiting']} wait, 40 in all" in page.inner_text("#long")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    # All of its ranks are seen at once.
    assert page.locator("#timeline").bounding_box()["height"] <= 560
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert not page.problems
