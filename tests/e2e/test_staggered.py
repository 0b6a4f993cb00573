"""Requests come, grow, are retracted, abort and end while one layer at a time changes degree."""

import asyncio
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from amoeba_sglang.adapters.cpu.backend import KV_PAGE
from tests.e2e.conftest import LAYERS, wait_for_tokens
from tests.serving.load import chat_prompts, new_session, run_clients, stream_chat

_RETRACTED = re.compile(r"#retracted_reqs: (\d+)")

# (ranks, degree) of the transformations, one after the other.
_TOUR = [([0, 1], 2), ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 2), ([0, 1, 2, 3], 1)]
_AT_A_TIME = 20


@pytest.fixture
def server(quartet):
    return quartet


def test_streams_are_equal_token_for_token_at_every_boundary(server):
    """Slots are audited at every b; with one layer a step all are passed, in both directions."""
    # One is prefilled in many chunks, so layers move in the middle of a prompt, too.
    prompts = chat_prompts(20, seed=11)
    prompts[3] = "Tell me this again: " + "a long story with a clock in it. " * 35
    plain = asyncio.run(run_clients(server.url, prompts, _AT_A_TIME, 100))
    assert not [s.error for s in plain if s.error]
    made, chance = [], random.Random(4)

    async def disturb(done):
        """Transform without pause, beside clients that leave in the middle."""
        async with new_session() as session:
            while not done.is_set() or len(made) % len(_TOUR):
                leaver = asyncio.create_task(
                    stream_chat(session, server.url, chance.choice(prompts), 60,
                                stop_after=chance.randint(1, 30))
                )  # fmt: skip
                change = _TOUR[len(made) % len(_TOUR)]
                made.append(await asyncio.to_thread(server.transform, *change))
                await leaver

    seen = len(server.log.read_text())
    moved = asyncio.run(run_clients(server.url, prompts, _AT_A_TIME, 100, beside=disturb))
    assert len(made) >= 4
    assert [status for status, _ in made] == [200] * len(made), made
    assert {reply["moves"] for _, reply in made} == {LAYERS}
    assert not [s.error for s in moved if s.error]
    assert [s.text for s in moved] == [s.text for s in plain]
    retracted = _RETRACTED.findall(server.log.read_text()[seen:])
    assert sum(map(int, retracted)) > 0, "the pool was too large to force a retraction"


def test_log_probabilities_hold_at_every_boundary_in_prefill_and_decode(server):
    """Equal tokens have hidden a wrong layout before, so the numbers are compared, too."""
    tokens = [(13 * i) % 9000 + 300 for i in range(500)]

    def scores(seed):
        # Another first token each time, or the prompt would come out of the prefix cache.
        reply = server.generate(
            [seed, *tokens], 40, return_logprob=True, logprob_start_len=0, routed_dp_rank=seed % 2
        )
        info = reply["meta_info"]
        pairs = info["input_token_logprobs"][1:] + info["output_token_logprobs"]
        return [value for value, *_ in pairs], reply["output_ids"]

    def through(seed, degree, held):
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(scores, seed)
            wait_for_tokens(server, running, held)
            status, reply = server.transform([0, 1], degree)
            assert (status, reply["moves"]) == (200, LAYERS), reply
            return running.result()

    in_prefill, in_decode = 0, len(tokens) + KV_PAGE
    for seed, moments in ((51, (in_prefill, in_decode)), (52, (in_decode, in_prefill))):
        expected, chosen = scores(seed)
        for degree, held in zip((2, 1), moments, strict=True):
            server.post("/flush_cache", {})
            found, ids = through(seed, degree, held)
            assert ids == chosen
            worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            assert worst <= 1e-4 * max(map(abs, expected)), worst


def test_state_shows_the_boundary_on_its_way(server):
    shown = []
    with ThreadPoolExecutor(2) as pool:
        load = pool.submit(server.generate, "Tell me about the sea.", 60, routed_dp_rank=0)
        wait_for_tokens(server, load)
        merge = pool.submit(server.transform, [0, 1], 2)
        while not merge.done():
            operation = server.state()["operation"]
            if operation is not None:
                shown.append(operation)
        assert merge.result()[0] == 200
        load.result()
    boundaries = [operation["boundary"] for operation in shown]
    assert boundaries == sorted(boundaries, reverse=True)
    assert len(set(boundaries) - {0, LAYERS}) > 1, boundaries
    assert shown[-1]["pace"] == "--amoeba-layers-per-step"
    last = server.state()["history"][-1]
    assert (last["kind"], last["moves"]) == ("merge", LAYERS)
