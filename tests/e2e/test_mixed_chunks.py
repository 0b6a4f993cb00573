"""Steps that compute a chunk of a prompt and decode beside it, through changes of the layout."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.load import chat_prompts
from tests.serving.servers import Server

CHUNK = 32
CHATS = chat_prompts(4)
LONG = random.Random(11).choices(range(100, 5000), k=60 * CHUNK)


@pytest.fixture(scope="module")
def mixed(shallow_model):
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "4096",
        "--chunked-prefill-size", str(CHUNK), "--enable-mixed-chunk",
        "--amoeba-policy", "static", "--skip-server-warmup",
        model=shallow_model, module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


def run_beside(server, *, change):
    """Output ids of chats that stream at rank 0 while it prefills a long prompt, and of that; and
    when each ended."""
    with ThreadPoolExecutor(len(CHATS) + 1) as pool:

        def ask(prompt, tokens):
            found = server.generate(prompt, tokens, routed_dp_rank=0)["output_ids"]
            return found, time.monotonic()

        chats = [pool.submit(ask, chat, 60) for chat in CHATS]
        long = pool.submit(ask, LONG, 20)
        if change:
            for degree in (2, 1) * 3:
                status, reply = server.transform([0, 1], degree)
                assert (status, reply["outcome"]) == (200, "done"), reply
        return [chat.result() for chat in chats], long.result()


def ids(run):
    chats, long = run
    return [found for found, _ in chats], long[0]


def test_tokens_are_those_of_steps_that_do_not_mix(pair, mixed):
    expected = ids(run_beside(pair, change=False))
    alone = run_beside(mixed, change=False)
    assert ids(alone) == expected
    # Their 60 tokens take fewer steps than the prompt has chunks and answers.
    assert max(ended for _, ended in alone[0]) < alone[1][1]
    for _ in range(3):
        assert mixed.post("/flush_cache", {})[0] == 200
        assert ids(run_beside(mixed, change=True)) == expected
