import asyncio
import time

import pytest

from bench import restarts
from bench.restarts import RestartedServer
from bench.trace import TraceRequest

SHORT, LONG = TraceRequest(0, 10, 5), TraceRequest(0, 500, 5)


class Server:
    """Takes a moment to start; `alive` counts those that run."""

    alive = 0

    def __init__(self, degree):
        self.url = f"degree {degree}"

    def __enter__(self):
        time.sleep(0.05)
        Server.alive += 1
        assert Server.alive == 1
        return self

    def __exit__(self, *exc):
        Server.alive -= 1


@pytest.fixture(autouse=True)
def no_linger(monkeypatch):
    monkeypatch.setattr(restarts, "LINGER_S", 0.3)


async def use(server, request, seconds=0.0):
    async with server.open(request) as url:
        await asyncio.sleep(seconds)
        return url


def run(scenario, make=Server):
    async def main():
        async with RestartedServer(make, 4, own_tokens=100).serve() as server:
            found = await asyncio.wait_for(scenario(server), 20)
        assert Server.alive == 0
        return found

    return asyncio.run(main())


def test_a_long_request_restarts_the_server_after_those_that_run():
    async def scenario(server):
        first = asyncio.create_task(use(server, SHORT, 0.4))
        await asyncio.sleep(0.05)
        long = asyncio.create_task(use(server, LONG))
        await asyncio.sleep(0.2)
        # It would delay the restart if it were let in.
        later = asyncio.create_task(use(server, SHORT))
        await asyncio.sleep(0.05)
        assert not first.done() and not later.done()
        urls = await asyncio.gather(first, long, later)
        return urls, [degree for degree, _ in server.restarts]

    urls, degrees = run(scenario)
    assert urls == ["degree 1", "degree 4", "degree 4"]
    assert degrees == [4]


def test_it_goes_back_once_no_long_request_is_left():
    async def scenario(server):
        await use(server, LONG)
        while len(server.restarts) < 2:
            await asyncio.sleep(0.05)
        return await use(server, SHORT)

    assert run(scenario) == "degree 1"


def test_a_server_that_does_not_start_again_fails_the_requests():
    class Failing(Server):
        def __enter__(self):
            if self.url == "degree 4":
                raise RuntimeError("out of memory")
            return super().__enter__()

        def __exit__(self, *exc):
            if self.url == "degree 1" and Server.alive:
                super().__exit__(*exc)

    async def scenario(server):
        with pytest.raises(OSError, match="out of memory"):
            await use(server, LONG)

    run(scenario, Failing)
