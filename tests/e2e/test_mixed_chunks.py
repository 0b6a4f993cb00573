"""Steps that compute a chunk of a prompt and decode beside it, through changes of the layout."""

import random
import re
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
    """Output ids of chats that stream at rank 0 while it prefills a long prompt, and of that."""
    with ThreadPoolExecutor(len(CHATS) + 1) as pool:

        def ask(prompt, tokens):
            return server.generate(prompt, tokens, routed_dp_rank=0)["output_ids"]

        chats = [pool.submit(ask, chat, 60) for chat in CHATS]
        while sum(each["running"] for each in server.state()["instances"]) < len(CHATS):
            assert not any(chat.done() for chat in chats), "it had ended before the others ran"
            time.sleep(0.01)
        long = pool.submit(ask, LONG, 20)
        if change:
            for degree in (2, 1) * 3:
                status, reply = server.transform([0, 1], degree)
                assert (status, reply["outcome"]) == (200, "done"), reply
        return [chat.result() for chat in chats], long.result()


def running_beside_chunks(log):
    """How many requests ran beside each chunk of a prompt that had more to come, in the log."""
    lines = re.findall(r"Prefill batch, .*#running-req: (\d+), .*#pending-token: (\d+)", log)
    return [int(running) for running, pending in lines if int(pending)]


def test_tokens_are_those_of_steps_that_do_not_mix(pair, mixed):
    expected = run_beside(pair, change=False)
    before = len(mixed.log.read_text())
    assert run_beside(mixed, change=False) == expected
    # Chats whose steps waited for the whole prompt would all still run beside its last chunk.
    beside = running_beside_chunks(mixed.log.read_text()[before:])
    assert max(beside) == len(CHATS) and beside[-1] == 0
    for _ in range(2):
        assert mixed.post("/flush_cache", {})[0] == 200
        assert run_beside(mixed, change=True) == expected
