"""What the page shows of a server that merges, and of one that dies."""

import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.page.conftest import PHONE, POOL, wait_live
from tests.serving.browser import LAPTOP
from tests.serving.servers import Server

LONG = random.Random(5).choices(range(100, 5000), k=2 * POOL)


def shown(page):
    """(ranks, degree) of every instance on the page."""
    told = page.locator("#instances strong").all_inner_texts()
    found = [re.match(r"ranks? (\d+)(?:–\d+)? · degree (\d+)", text) for text in told]
    return [(int(one[1]), int(one[2])) for one in found]


def of_state(server):
    return [(one["ranks"][0], one["degree"]) for one in server.state()["instances"]]


def wait_for(page, script, *args):
    page.wait_for_function(script, arg=args, timeout=60_000)


def test_it_shows_the_layout_of_the_server_and_follows_it(server, page):
    page.goto(f"{server.url}/amoeba")
    assert page.url == f"{server.url}/amoeba/"
    wait_live(page)
    page.wait_for_selector("#instances strong")
    assert shown(page) == of_state(server) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    for degree, expected in [(2, 2), (1, 1)]:
        assert server.transform([0, 1], degree)[0] == 200
        page.wait_for_function(
            "text => document.querySelector('#instances strong').textContent.includes(text)",
            arg=f"degree {expected}",
            # Events are half a second behind, `bench.page` says how far; a busy machine is later.
            timeout=5000,
        )
        assert shown(page) == of_state(server)
    assert "merge of ranks 0–1 to degree 2: done" in page.inner_text("#log")
    assert not page.problems


def test_it_is_right_when_it_is_opened_on_merged_workers(server, page):
    assert server.transform([0, 1, 2, 3], 4)[0] == 200
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    page.wait_for_selector("#instances strong")
    assert shown(page) == of_state(server) == [(0, 4)]
    assert server.transform([0, 1, 2, 3], 1)[0] == 200
    assert not page.problems


def test_a_merge_of_an_instant_is_a_mark_on_the_timeline(server, page):
    """Whoever opens the page afterwards sees it as well."""
    assert server.transform([2, 3], 2)[0] == 200
    assert server.transform([2, 3], 1)[0] == 200
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    page.wait_for_selector("#instances strong")
    # Columns of pixels of ranks 2 and 3 that have another colour than the degrees have.
    marks = page.evaluate(
        """() => {
          const canvas = document.getElementById('timeline');
          const scale = canvas.width / canvas.clientWidth, paint = canvas.getContext('2d');
          const y = Math.round(3.85 * 30 * scale), columns = new Set();
          for (let x = Math.round(40 * scale); x < canvas.width; x++) {
            const [r, g, b, a] = paint.getImageData(x, y, 1, 1).data;
            if (a && r + g + b < 250) columns.add(x);
          }
          return columns.size;
        }"""
    )
    assert marks >= 2, marks
    assert not page.problems


def test_a_long_request_is_seen_and_the_merge_that_it_asks_for(server, page, prompts):
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    with ThreadPoolExecutor(4) as pool:
        chats = [pool.submit(server.generate, prompt, 200) for prompt in prompts[:3]]
        long = pool.submit(server.generate, LONG, 60)
        wait_for(page, "() => document.querySelector('#long strong')")
        assert f"{len(LONG) + 60:,} tokens" in page.inner_text("#long")
        wait_for(page, "() => document.querySelector('#long').innerText.includes('at rank')")
        assert any(degree > 1 for _, degree in shown(page))
        assert len(long.result()["output_ids"]) == 60
        assert all(len(chat.result()["output_ids"]) == 200 for chat in chats)
    wait_for(page, "() => document.querySelector('#long').innerText.includes('none')")
    assert "holds" in page.inner_text("#log") or "request" in page.inner_text("#log")
    for chart in ("rate", "ttft", "tpot"):
        assert re.search(r"\d", page.inner_text(f"#{chart}-now")), chart
    assert not page.problems


def test_buttons_merge_and_split(server, page):
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    for text in ("merge ranks 0–1", "split ranks 0–1"):
        page.get_by_role("button", name=text, exact=True).first.click()
        wait_for(page, "([text]) => document.querySelector('#instances').innerText.includes(text)",
                 "ranks 0–1 · degree 2" if "merge" in text else "rank 0 · degree 1")  # fmt: skip
    assert of_state(server) == [(0, 1), (1, 1), (2, 1), (3, 1)] and not page.problems


def test_a_slow_click_is_a_click_and_a_selection_stays(server, page):
    """Frames come meanwhile."""
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    page.get_by_role("button", name="merge ranks 2–3", exact=True).first.hover()
    page.mouse.down()
    page.wait_for_timeout(1500)
    page.mouse.up()
    done = "merge of ranks 2–3 to degree 2: done"
    wait_for(page, "([text]) => document.querySelector('#log').innerText.includes(text)", done)
    page.get_by_text(done).first.select_text()
    page.wait_for_timeout(1500)
    assert done in page.evaluate("getSelection().toString()")
    assert server.transform([2, 3], 1)[0] == 200 and not page.problems


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_nothing_is_wider_than_the_screen(server, page, size):
    page.set_viewport_size(size)
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    page.wait_for_selector("#instances strong")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_it_is_small_and_asks_nobody_else(server, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    loaded = []
    page.on("requestfinished", lambda one: loaded.append(one.sizes()["responseBodySize"]))
    page.goto(f"{server.url}/amoeba/")
    wait_live(page)
    assert asked and all(url.startswith((server.url, "data:")) for url in asked), asked
    assert sum(loaded) < 300_000


def test_a_server_that_dies_is_said_to_be_gone_and_found_again(browser, page):
    flags = ("--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(POOL))
    server = Server(*flags, "--api-key", "open", "--admin-api-key", "sesame")
    # Health checks need no key.
    with server:
        page.goto(f"{server.url}/amoeba/")
        page.wait_for_selector("dialog[open]")
        assert "key" in page.inner_text("#why")
        page.fill("dialog input", "wrong")
        page.click("dialog button[value=use]")
        page.wait_for_selector("dialog[open]")
        assert "This key is not the server's" in page.inner_text("#why")
        page.fill("dialog input", "open")
        page.click("dialog button[value=use]")
        wait_live(page)
        assert "open" not in page.url and "wrong" not in page.url
        page.get_by_role("button", name="merge ranks 0–1", exact=True).first.click()
        page.wait_for_selector("dialog[open]")
        assert "admin key" in page.inner_text("#why")
        page.fill("dialog input", "sesame")
        page.click("dialog button[value=use]")
        wait_for(page, "() => document.querySelector('#log').innerText.includes('degree 2: done')")
        server.workers()[1].kill()
        wait_for(page, "() => document.querySelector('#banner').innerText.includes('ends')")
        server.process.wait(30)
        wait_for(
            page,
            "() => /no connection|closed/.test(document.querySelector('#connection').textContent)",
        )
    with server:
        wait_for(page, "() => document.querySelector('#connection').textContent === 'live'")
        wait_for(page, "() => !document.querySelector('#log ol').innerText.includes('done')")
        # An open page does not keep a server that is told to end.
        server.process.terminate()
        server.process.wait(30)
    assert not page.problems
