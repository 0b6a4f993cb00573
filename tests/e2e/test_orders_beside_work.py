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
