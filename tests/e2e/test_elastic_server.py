"""A real server, a real model, real clients."""

import asyncio
import json
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from amoeba_sglang.adapters.cpu.backend import KV_PAGE
from tests.e2e.conftest import split_all, wait_for_tokens
from tests.serving.load import chat_prompts, new_session, run_clients, stream_chat
from tests.serving.servers import Server

PAGES = [int(page) for page in os.environ.get("AMOEBA_TEST_PAGES", str(KV_PAGE)).split(",")]
# Every change between aligned layouts along the chain 1, 2, 4, as (ranks, degree) steps.
LAYOUT_TOUR = [
    ([0, 1], 2),
    ([2, 3], 2),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 2),
    ([2, 3], 1),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 1),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 2),
    ([0, 1], 1),
    ([2, 3], 1),
    ([0, 1, 2, 3], 2),
    ([0, 1, 2, 3], 1),
]


@pytest.fixture(scope="module", params=PAGES, ids="page {}".format)
def page(request):
    """Tokens of a KV page; AMOEBA_TEST_PAGES=1,16 runs all with both, which takes twice as long."""
    return request.param


@pytest.fixture(scope="module")
def server(page):
    with Server(
        "--tp-size", "4", "--dtype", "float32", "--max-total-tokens", "4096",
        "--chunked-prefill-size", "512", "--max-running-requests", "32", "--enable-metrics",
        "--enable-cache-report", "--page-size", str(page), "--amoeba-policy", "static",
        module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def at_degree_one(server):
    """Start and end every test at degree 1."""
    split_all(server)
    yield server
    split_all(server)


def test_streams_are_equal_token_for_token_through_every_layout(at_degree_one):
    server = at_degree_one
    prompts = chat_prompts(16)
    plain = asyncio.run(run_clients(server.url, prompts, 8, 48))
    assert not [s.error for s in plain if s.error]
    made = []

    async def tour(done):
        while not done.is_set() and len(made) < 2 * len(LAYOUT_TOUR):
            ranks, degree = LAYOUT_TOUR[len(made) % len(LAYOUT_TOUR)]
            made.append(await asyncio.to_thread(server.transform, ranks, degree))
        while len(made) < len(LAYOUT_TOUR):
            ranks, degree = LAYOUT_TOUR[len(made) % len(LAYOUT_TOUR)]
            made.append(await asyncio.to_thread(server.transform, ranks, degree))

    moved = asyncio.run(run_clients(server.url, prompts, 8, 48, beside=tour))
    assert [status for status, _ in made] == [200] * len(made), made
    assert len(made) >= len(LAYOUT_TOUR)
    assert not [s.error for s in moved if s.error]
    assert [s.text for s in moved] == [s.text for s in plain]


def test_prefix_cached_at_degree_1_hits_at_degree_4_and_after_the_split(at_degree_one):
    server = at_degree_one
    prompt = "Once upon a time there was a clock that ran backwards. " * 8

    def cached(extra):
        reply = server.generate(prompt + extra, 4, routed_dp_rank=1)
        return reply["meta_info"]["cached_tokens"]

    server.generate(prompt, 4, routed_dp_rank=1)
    base = cached("At one")
    assert base > 50
    assert server.transform([0, 1, 2, 3], 4)[0] == 200
    assert cached("At four") >= base
    grown = "A story computed by four workers together. " * 8
    server.generate(grown, 4, routed_dp_rank=2)
    assert server.transform([0, 1, 2, 3], 1)[0] == 200
    assert cached("After the split") >= base
    reply = server.generate(grown + "And then", 4, routed_dp_rank=2)
    assert reply["meta_info"]["cached_tokens"] > 50


def test_chunked_prefill_goes_on_through_a_merge_and_a_split(at_degree_one):
    server = at_degree_one
    tokens = [(7 * i) % 5000 + 100 for i in range(3600)]

    def through(*changes):
        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(server.generate, tokens, 8, routed_dp_rank=0)
            if changes:
                # How many of its chunks the first change takes is the pace's to say.
                wait_for_tokens(server, task)
            for change in changes:
                status, reply = server.transform(*change)
                assert status == 200, reply
            return task.result()["output_ids"]

    expected = through()
    server.post("/flush_cache", {})
    assert through(([0, 1], 2), ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 1)) == expected


def test_disconnects_during_transformations_leave_nothing_behind(at_degree_one):
    server = at_degree_one

    async def storm():
        async with new_session() as session:
            streams = [
                stream_chat(session, server.url, prompt, 64, stop_after=1 + number % 9)
                for number, prompt in enumerate(chat_prompts(16, seed=3))
            ]
            tasks = [asyncio.create_task(s) for s in streams]
            for ranks, degree in LAYOUT_TOUR[:8]:
                status, reply = await asyncio.to_thread(server.transform, ranks, degree)
                assert status == 200, reply
            await asyncio.gather(*tasks)

    asyncio.run(storm())
    server.wait_until_idle()
    assert server.generate("The capital of France is", 4)["meta_info"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"ranks": [0, 9], "degree": 2}, 400, "ranks"),
        ({"ranks": [1, 2], "degree": 2}, 400, "ranks"),
        ({"ranks": [0, 0], "degree": 2}, 400, "ranks"),
        ({"ranks": [0, 1], "degree": 3}, 400, "degree"),
        ({"ranks": [0, 1]}, 400, "degree"),
        ({"ranks": "0", "degree": 1}, 400, "ranks"),
    ],
)
def test_bad_transforms_are_refused_by_name(server, body, status, names):
    answer, reply = server.post("/amoeba/transform", body)
    assert answer == status, reply
    assert names in json.dumps(reply)


def test_an_operation_id_is_answered_once(at_degree_one):
    server = at_degree_one
    first = server.transform([0, 1], 2, operation_id="once")
    again = server.transform([0, 1], 2, operation_id="once")
    assert first[0] == again[0] == 200
    assert first[1]["operation_id"] == again[1]["operation_id"] == "once"
    assert server.transform([2, 3], 2, operation_id="once")[0] == 409


def test_a_request_no_layout_can_hold_gets_400_with_the_numbers(server):
    limit = server.state()["max_request_tokens"]
    body = {"input_ids": [5] * (limit - 10), "sampling_params": {"max_new_tokens": 4000}}
    for stream in (False, True):
        status, reply = server.post("/generate", {**body, "stream": stream})
        assert status == 400, reply
        assert str(limit) in json.dumps(reply)


def test_metrics_count_transformations(at_degree_one):
    server = at_degree_one
    assert server.transform([0, 1], 2)[0] == 200
    with urllib.request.urlopen(f"{server.url}/metrics") as reply:
        text = reply.read().decode()
    for name in (
        "amoeba_transformations_total",
        "amoeba_transformation_seconds",
        "amoeba_bytes_moved_total",
        "amoeba_instance_degree",
        "amoeba_kv_capacity_tokens",
    ):
        assert name in text


def test_kv_and_weights_are_bit_exact_after_round_trips(at_degree_one, page):
    server = at_degree_one
    for rank in range(4):
        server.generate(f"Worker {rank} remembers a story. " * 5, 8, routed_dp_rank=rank)
    everyone = [0, 1, 2, 3]
    seen = len(server.log.read_text())
    for degree in (4, 1, 2, 4, 1):
        assert server.transform(everyone, degree)[0] == 200
    lines = [line for line in server.log.read_text()[seen:].splitlines() if "digest" in line]
    for rank in range(4):
        own = [line.split("digest ")[1].split(": ") for line in lines if f" DP{rank}]" in line]
        assert [when for when, _ in own] == ["before", "after", "before", "after"], own
        assert len({content for _, content in own}) == 1, own
        assert int(own[0][1].split()[0]) > 20 // page


@pytest.mark.parametrize("degree", [1, 4])
def test_idle_workers_sleep_after_a_transformation(at_degree_one, degree):
    """A ring left unread from an earlier instance once kept idle workers spinning."""
    server = at_degree_one
    everyone = [0, 1, 2, 3]
    for target in (4, 1, 4, degree):
        assert server.transform(everyone, target)[0] == 200
        server.generate("Wake up.", 2)
    time.sleep(2)
    before = server.cpu_seconds()
    time.sleep(5)
    assert (server.cpu_seconds() - before) / 5 < 0.3
