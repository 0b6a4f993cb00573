"""A merge asked for while workers are in the middle of something: nobody is harmed."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import QUARTET_POOL, SLOW_STEP_S, start_afresh, wait_for_tokens

# Together they leave no own slot of rank 0 free, and the prompt takes many chunks.
SHORT = {"prompt": QUARTET_POOL - 122, "output": 90, "offset": 0}
LONG = {"prompt": 3000, "output": 16, "offset": 3000}
PATIENCE_S = 120 + 20 * SLOW_STEP_S


@pytest.fixture
def server(quartet):
    return quartet


def generate(server, prompt, output, offset, rank=0):
    ids = [100 + (i + offset) * 7 % 900 for i in range(prompt)]
    params = {"max_new_tokens": output, "temperature": 0, "ignore_eos": True}
    body = {"input_ids": ids, "sampling_params": params, "routed_dp_rank": rank}
    status, reply = server.post("/generate", body, timeout=PATIENCE_S)
    assert status == 200, reply
    return reply["output_ids"]


def serve(server, during=lambda task: None):
    """Both requests at rank 0 of a fresh instance [0, 1], beside them `during(task)` of the long
    one: (tokens, its result)."""
    start_afresh(server)
    assert server.transform([0, 1], 2)[0] == 200
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(generate, server, **SHORT)
        wait_for_tokens(server, short)
        long = pool.submit(generate, server, **LONG)
        result = during(long)
        return [short.result(), long.result()], result


def test_a_merge_asked_for_during_a_long_prompt_leaves_every_token_as_it_was(server):
    undisturbed, _ = serve(server)
    assert [len(tokens) for tokens in undisturbed] == [SHORT["output"], LONG["output"]]
    for share in (0.1, 0.3, 0.6):

        def merge(task, share=share):
            wait_for_tokens(server, task, SHORT["prompt"] + share * LONG["prompt"])
            return server.transform([0, 1, 2, 3], 4)

        tokens, (status, reply) = serve(server, merge)
        assert status in (200, 409), reply
        assert tokens == undisturbed, (share, reply)
    assert server.process.poll() is None


@pytest.fixture
def slow_steps(server):
    """Steps so long that requests sent together with an order come before its end."""
    start_afresh(server)
    assert server.transform([0, 1], 2)[0] == 200
    yield
    assert server.post("/slow_down", {"forward_sleep_time": None})[0] == 200


def order_of_four(server):
    """Begin 2+1+1 -> 4, which takes a step for each layer."""
    assert server.post("/slow_down", {"forward_sleep_time": 0.2})[0] == 200
    status, reply = server.transform([0, 1, 2, 3], 4, wait=False)
    assert status == 202, reply
    return reply["operation_id"]


def is_changing(server, operation):
    running = server.state()["operation"]
    return running is not None and running["operation_id"] == operation


def is_done(server, operation):
    status, reply = server.transform([0, 1, 2, 3], 4, operation_id=operation)
    assert (status, reply["outcome"]) == (200, "done"), reply


def test_long_requests_that_arrive_in_mid_change_are_neither_refused_nor_shortened(
    server, slow_steps
):
    by_prompt = {"prompt": 1000, "output": 6, "offset": 100}
    by_output = {"prompt": 300, "output": 240, "offset": 500}
    beside = [{"prompt": 20, "output": 12, "offset": 50 * rank, "rank": rank} for rank in range(4)]
    right = [generate(server, **one) for one in (by_prompt, by_output)]
    assert server.post("/flush_cache", {})[0] == 200
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(generate, server, **one) for one in beside]
        operation = order_of_four(server)
        longs = [pool.submit(generate, server, **one) for one in (by_prompt, by_output)]
        assert is_changing(server, operation)
        is_done(server, operation)
        assert server.post("/slow_down", {"forward_sleep_time": None})[0] == 200
        assert [long.result() for long in longs] == right
        assert [len(other.result()) for other in others] == [12] * 4


def test_a_long_request_that_ends_in_mid_change_harms_no_other(server, slow_steps):
    """Its prefix was to be cached on slots that another request got meanwhile."""
    short = {"prompt": 100, "output": 60, "offset": 0}
    right, after = generate(server, **short), {"prompt": 400, "output": 8, "offset": 3000}
    expected = generate(server, **after)
    assert server.post("/flush_cache", {})[0] == 200
    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(generate, server, **short)
        time.sleep(0.5)
        long = pool.submit(generate, server, prompt=478, output=3, offset=3000)
        operation = order_of_four(server)
        assert len(long.result()) == 3
        is_done(server, operation)
        assert beside.result() == right
    assert generate(server, **after) == expected


def test_a_worker_in_a_slow_step_is_waited_for(server):
    """Rank 2 has nothing to do and enters at once; rank 3 comes when its step is over."""
    small = {"prompt": 10, "output": 3, "offset": 7, "rank": 3}
    start_afresh(server)
    undisturbed = generate(server, **small)
    start_afresh(server)
    assert server.post("/slow_down", {"forward_sleep_time": SLOW_STEP_S})[0] == 200
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(generate, server, **small)
        time.sleep(SLOW_STEP_S / 3)
        order = {"ranks": [2, 3], "degree": 2}
        status, reply = server.post("/amoeba/transform", order, timeout=PATIENCE_S)
        assert status == 200, reply
        assert reply["lockstep_seconds"] > SLOW_STEP_S / 3
        assert slow.result() == undisturbed
    assert server.post("/slow_down", {"forward_sleep_time": None})[0] == 200
    assert server.process.poll() is None
