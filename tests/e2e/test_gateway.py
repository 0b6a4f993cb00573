"""SGLang's gateway in front of two real servers: long requests stay on one of them."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import AUTOMATIC_POOL as POOL
from tests.serving.gateway import Gateway
from tests.serving.servers import MODEL

LONG_KEY = {"X-SMG-Routing-Key": "long-0"}


@pytest.fixture(scope="module")
def servers(automatic_servers):
    """Nobody needs them afterwards, and one is dead then."""
    yield automatic_servers
    for server in automatic_servers:
        server.stop()


@pytest.fixture(scope="module")
def merges(servers):
    """Of a server, how often it has merged since these tests began."""
    before = {server.port: count_merges(server) for server in servers}
    return lambda server: count_merges(server) - before[server.port]


def count_merges(server):
    return sum(one["kind"] == "merge" for one in server.state()["history"])


@pytest.fixture(scope="module")
def gateway(servers):
    flags = ("--health-check-interval-secs", "1", "--health-failure-threshold", "1")
    with Gateway([server.url for server in servers], *flags) as running:
        yield running


def ask(gateway, prompt, headers, new_tokens=8):
    body = {
        "model": MODEL, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0,
        "ignore_eos": True,
    }  # fmt: skip
    status, reply = gateway.post("/v1/completions", body, headers=headers)
    assert status == 200, reply
    assert reply["usage"]["completion_tokens"] == new_tokens
    return reply


def make_long(seed):
    words = ("river", "stone", "window", "music", "garden", "paper", "silver", "morning")
    return " ".join(random.Random(seed).choices(words, k=POOL + 300))


def test_the_gateway_reads_health_and_load_of_every_server(servers, gateway):
    loads = gateway.get("/get_loads")["workers"]
    assert {entry["worker"] for entry in loads} == {server.url for server in servers}
    # It says -1 of a server whose load it cannot read.
    assert all(entry["load"] >= 0 for entry in loads)


def test_a_session_stays_at_one_server(servers, gateway):
    homes = [{home_of(servers, gateway, f"session-{n}") for _ in range(3)} for n in range(3)]
    assert [len(home) for home in homes] == [1, 1, 1]


def home_of(servers, gateway, key):
    """The server that answers a request with this key, by the servers' access logs."""
    before = [count_answers(server) for server in servers]
    ask(gateway, "Once upon a time", {"X-SMG-Routing-Key": key}, new_tokens=2)
    more = [count_answers(server) - n for server, n in zip(servers, before, strict=True)]
    assert sorted(more) == [0, 1]
    return more.index(1)


def count_answers(server):
    return server.log.read_text(errors="replace").count('"POST /v1/completions')


def test_long_requests_with_one_key_merge_one_server_only(servers, gateway, merges):
    with ThreadPoolExecutor(4) as pool:
        long = [pool.submit(ask, gateway, make_long(seed), LONG_KEY) for seed in range(3)]
        short = pool.submit(ask, gateway, "The sea is", {}, 24)
        replies = [task.result() for task in long]
        assert short.result()["choices"][0]["text"]
    assert all(reply["usage"]["prompt_tokens"] > POOL for reply in replies)
    assert sorted(merges(server) > 0 for server in servers) == [False, True]


def test_what_no_server_holds_is_a_400_and_does_not_shut_the_server_out(servers, gateway):
    body = {"model": MODEL, "prompt": make_long(9) * 9, "max_tokens": 4}
    for _ in range(12):
        status, reply = gateway.post("/v1/completions", body, headers=LONG_KEY)
        assert status == 400
        assert "no layout" in str(reply)
    assert gateway.healthy() == 2
    ask(gateway, make_long(4), LONG_KEY)


def test_another_server_takes_the_long_requests_of_a_dead_one(servers, gateway, merges):
    dead, alive = sorted(servers, key=merges, reverse=True)
    assert merges(alive) == 0
    dead.stop()
    deadline = time.monotonic() + 30
    while gateway.healthy() > 1:
        assert time.monotonic() < deadline, gateway.tail()
        time.sleep(0.1)
    ask(gateway, make_long(5), LONG_KEY)
    assert merges(alive) > 0
