"""Requests that fit only into memory that a merge frees from weights."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from amoeba_sglang.adapters.cpu.backend import KV_PAGE
from bench.long_request import WeightMemory, score
from tests.e2e.conftest import LAYERS, split_all, wait_for_tokens
from tests.e2e.conftest import NARROW_POOL as POOL
from tests.serving.servers import Server

LONG = random.Random(5).choices(range(100, 5000), k=2 * POOL + 100)
SHORT = LONG[:90]


@pytest.fixture(scope="module", params=[1, KV_PAGE], ids="page {}".format)
def page(request):
    return request.param


@pytest.fixture(scope="module")
def expected(pair):
    """Log-probabilities and short output of a pool that is large enough at degree 1."""
    split_all(pair)
    return score(pair, LONG), pair.generate(SHORT, 16)["output_ids"]


@pytest.fixture(scope="module")
def server(request, page, shallow_model):
    if page == KV_PAGE:
        yield request.getfixturevalue("narrow_pair")
        return
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(POOL),
        "--chunked-prefill-size", "256", "--amoeba-policy", "static", "--page-size", str(page),
        model=shallow_model, module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def merged(server):
    memory = [WeightMemory(process.pid) for process in server.workers()]
    assert server.transform([0, 1], 2)[0] == 200
    yield server, memory
    split_all(server)


def long_body(**fields):
    return {"input_ids": LONG, "sampling_params": {"max_new_tokens": 8}, **fields}


def test_a_request_longer_than_all_own_pools_runs_merged_and_leaves_no_trace(expected, merged):
    server, _ = merged
    long, short = expected
    with ThreadPoolExecutor(2) as pool:
        task = pool.submit(score, server, LONG)
        beside = pool.submit(server.generate, SHORT, 16, routed_dp_rank=0).result()["output_ids"]
        prompt, output = task.result()
    assert prompt == pytest.approx(long[0], rel=1e-4, abs=1e-4)
    assert output == pytest.approx(long[1], rel=1e-4, abs=1e-4)
    assert beside == short
    assert server.transform([0, 1], 1)[0] == 200
    assert server.generate(SHORT, 16, routed_dp_rank=0)["output_ids"] == short


def test_a_merge_turns_weight_memory_into_capacity(merged):
    server, memory = merged
    [instance] = server.state()["instances"]
    figures = [worker.after_merge() for worker in memory]
    for worker in figures:
        freed = worker["weights_at_degree_1"] - worker["weights_merged"]
        assert freed >= 0.99 * worker["weights_at_degree_1"] / 2
        assert worker["file_merged"] <= worker["file_at_degree_1"] * 1.02
    # K and V of 4 heads of 64 fp32 each; every token lies half on each worker.
    token_bytes = LAYERS * 2 * 4 * 64 * 4
    held = 2 * figures[0]["weights_at_degree_1"] / 2 / token_bytes
    assert instance["max_tokens"] >= 2 * POOL + 0.97 * held


def test_tokens_on_grown_slots_are_in_all_gauges(merged):
    server, _ = merged

    def gauges():
        [instance] = server.state()["instances"]
        anchor = server.get("/v1/loads")["loads"][0]
        return instance["used_tokens"], anchor["num_used_tokens"], anchor["token_usage"]

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(server.generate, LONG, 60)
        wait_for_tokens(server, task)
        seen = []
        while not task.done():
            seen.append(gauges())
            time.sleep(0.05)
    assert max(used for used, _, _ in seen) >= len(LONG)
    assert max(used for _, used, _ in seen) >= len(LONG)
    assert 0 < max(share for _, _, share in seen) <= 1
    capacity = server.get("/v1/loads")["loads"][0]["max_total_num_tokens"]
    [instance] = server.state()["instances"]
    assert capacity == instance["max_tokens"] - POOL
    states = server.get("/server_info")["internal_states"]
    held = sorted(state["memory_usage"]["token_capacity"] for state in states)
    assert held == [POOL, capacity]


def test_a_split_is_refused_while_a_request_lives_that_degree_1_cannot_hold(merged, page):
    server, _ = merged
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(server.generate, LONG, 24)
        wait_for_tokens(server, task)
        status, reply = server.transform([0, 1], 1)
        assert status == 409
        assert f"needs up to {len(LONG) + 24} tokens" in reply["error"]
        assert f"can have {POOL - 2 * page} at degree 1" in reply["error"]
        assert task.result()["meta_info"]["completion_tokens"] == 24
    assert server.transform([0, 1], 1)[0] == 200


@pytest.mark.parametrize("held", [0, len(LONG) + KV_PAGE], ids=["in prefill", "in decode"])
def test_a_split_right_after_the_abort_of_a_long_request_succeeds(expected, merged, held):
    server, _ = merged
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(
            server.post,
            "/generate",
            {
                "input_ids": LONG[::-1],
                "rid": f"aborted-{held}",
                "sampling_params": {"max_new_tokens": 900, "ignore_eos": True},
            },
        )
        wait_for_tokens(server, task, held)
        assert server.post("/abort_request", {"rid": f"aborted-{held}"})[0] == 200
        status, reply = server.transform([0, 1], 1)
        assert status == 200, reply
        assert task.result()[1]["meta_info"]["finish_reason"]["type"] == "abort"
    assert server.generate(SHORT, 16, routed_dp_rank=0)["output_ids"] == expected[1]


def test_the_prefix_of_a_long_request_is_cached_on_own_slots_and_outlasts_the_split(
    expected, merged, page
):
    server, _ = merged
    server.post("/flush_cache", {})
    first = server.generate(LONG, 8)
    again = server.generate(LONG, 8)
    assert again["output_ids"] == first["output_ids"]
    # All own slots of the anchor were free, but for one that SGLang keeps for the next token.
    assert POOL - 8 * page <= again["meta_info"]["cached_tokens"] <= POOL
    assert server.transform([0, 1], 1)[0] == 200
    short = server.generate(SHORT, 16, routed_dp_rank=0)
    assert short["meta_info"]["cached_tokens"] == (len(SHORT) - 1) // page * page
    assert short["output_ids"] == expected[1]
    assert server.generate(SHORT, 16, routed_dp_rank=1)["meta_info"]["cached_tokens"] < len(SHORT)


def test_what_does_not_fit_gets_400_with_the_numbers_and_the_way_out(server, page):
    split_all(server)
    status, reply = server.post("/generate", long_body())
    assert status == 400
    message = reply["error"]["message"]
    assert f"The prompt has {len(LONG)} tokens" in message
    assert f"at most {POOL - 2 * page - 5}" in message
    assert "/amoeba/transform" in message
    status, reply = server.post("/generate", {**long_body(), "input_ids": LONG * 6})
    assert status == 400
    assert "no layout" in reply["error"]["message"]


def test_only_the_anchor_takes_a_long_request(merged):
    server, _ = merged
    status, reply = server.post("/generate", long_body(routed_dp_rank=1))
    assert status == 400
    assert "routed_dp_rank 1" in reply["error"]["message"]


def test_many_long_and_short_requests_share_the_memory(merged):
    server, _ = merged
    prompts = [LONG[i : i + 900] for i in range(0, 200, 40)] + [SHORT] * 4
    alone = [server.generate(tokens, 6)["output_ids"] for tokens in prompts[:2]]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda tokens: server.generate(tokens, 6), prompts))
    assert [reply["output_ids"] for reply in together[:2]] == alone
    assert all(reply["meta_info"]["completion_tokens"] == 6 for reply in together)


def test_a_request_that_needs_the_peer_s_own_slots_leases_and_returns_them(merged):
    server, _ = merged
    most = server.state()["max_request_tokens"]
    tokens = random.Random(6).choices(range(100, 5000), k=most - 200)
    first = server.generate(SHORT, 8, routed_dp_rank=1)["output_ids"]
    assert server.generate(tokens, 12)["meta_info"]["completion_tokens"] == 12
    # The audit of the idle workers finds every slot at home again, or ends the server.
    assert server.generate(SHORT, 8, routed_dp_rank=1)["output_ids"] == first
    assert server.transform([0, 1], 1)[0] == 200
    assert server.generate(SHORT, 8, routed_dp_rank=1)["output_ids"] == first
