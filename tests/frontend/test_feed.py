import asyncio
import json

import pytest

from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend import feed as feeds
from amoeba_sglang.frontend.feed import Feed


class Router:
    """Counts its answers as its time; raises `error` instead while there is one."""

    def __init__(self):
        self.asked, self.error = [], None

    async def __call__(self, since):
        self.asked.append(since)
        if self.error:
            raise self.error
        return {"now": float(len(self.asked)), "ended": []}


@pytest.fixture
def router(monkeypatch):
    monkeypatch.setattr(feeds, "PERIOD_SECONDS", 0.001)
    return Router()


def parse(event):
    name, data = event.decode().removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def make(router):
    return Feed(router, lambda: {"model": "m"})


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_a_view_and_then_what_is_new(router):
    async def read():
        feed = make(router)
        events = feed.read()
        first = parse(await anext(events))
        assert first == ("view", {"now": 1.0, "ended": [], "about": {"model": "m"}})
        frames = [parse(await anext(events)) for _ in range(3)]
        assert [name for name, _ in frames] == ["frame"] * 3
        assert all(data["beat"]["tokens_per_second"] == 0 for _, data in frames)
        await events.aclose()
        return feed

    feed = run(read())
    assert router.asked[:4] == [None, 1.0, 2.0, 3.0] and not feed.watched


def test_nobody_is_asked_while_nobody_looks(router):
    async def read():
        feed = make(router)
        await asyncio.sleep(0.02)
        assert router.asked == []
        events = feed.read()
        await anext(events)
        await events.aclose()
        await asyncio.sleep(0.05)
        asked = len(router.asked)
        await asyncio.sleep(0.05)
        assert len(router.asked) == asked <= 2
        # Whoever comes later sees it all again.
        assert parse(await anext(feed.read()))[0] == "view"

    run(read())


def test_many_readers_cost_the_router_one_question_each_and_then_one_for_all(router):
    async def read():
        feed = make(router)
        readers = [feed.read() for _ in range(20)]
        for events in readers:
            assert parse(await anext(events))[0] == "view"
        heard = [[parse(await anext(events)) for _ in range(4)] for events in readers]
        assert heard[0] == heard[7] == heard[19]
        assert router.asked.count(None) == 20 and len(router.asked) <= 20 + feeds._BEHIND + 1

    run(read())


def test_one_reader_too_many_is_told_so(router, monkeypatch):
    monkeypatch.setattr(feeds, "MOST_READERS", 1)

    async def read():
        feed = make(router)
        first = feed.read()
        await anext(first)
        with pytest.raises(RequestError, match="1 pages look at this server already: close some"):
            await anext(feed.read())
        await first.aclose()
        await anext(feed.read())

    run(read())


def test_a_reader_that_is_too_far_behind_is_let_go(router):
    async def read():
        feed = make(router)
        slow, fast = feed.read(), feed.read()
        await anext(slow)
        await anext(fast)
        for _ in range(feeds._BEHIND + 5):
            await anext(fast)
        rest = [parse(event)[1]["now"] async for event in slow]
        assert len(rest) < feeds._BEHIND and rest == sorted(rest)
        assert feed.watched

    run(read())


def test_a_router_that_does_not_answer_is_trouble_and_is_asked_again(router):
    async def read():
        events = make(router).read()
        await anext(events)
        router.error = RequestError(504, "the router did not answer within 5 s")
        while (event := parse(await anext(events)))[0] == "frame":
            pass
        assert event == ("trouble", {"error": "the router did not answer within 5 s"})
        since, router.error = router.asked[-1], None
        while (event := parse(await anext(events)))[0] == "trouble":
            pass
        assert event[0] == "frame"
        # What happened meanwhile is not lost.
        assert router.asked[-1] == since or since in router.asked

    run(read())


def test_a_server_that_ends_says_so_last(router):
    async def read():
        feed = make(router)
        events = feed.read()
        await anext(events)
        feed.end("a worker died")
        rest = [parse(event) async for event in events]
        assert rest[-1] == ("end", {"error": "a worker died"}) and not feed.watched
        with pytest.raises(RequestError, match="a worker died"):
            await anext(feed.read())

    run(read())


def test_a_router_that_says_nothing_at_first_is_the_reader_s_error(router):
    router.error = RequestError(503, "the server ends")

    async def read():
        feed = make(router)
        with pytest.raises(RequestError, match="the server ends"):
            await anext(feed.read())
        assert not feed.watched

    run(read())
