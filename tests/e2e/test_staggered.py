"""Requests come, grow, are retracted, abort and end while one layer at a time changes degree."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from tests.e2e.conftest import LAYERS
from tests.serving.load import chat_prompts, new_session, run_clients, stream_chat
from tests.serving.servers import Server

_RETRACTED = re.compile(r"#retracted_reqs: (\d+)")


# (ranks, degree) of the transformations, one after the other.
_TOURS = {
    2: [([0, 1], 2), ([0, 1], 1)],
    4: [([0, 1], 2), ([0, 1, 2, 3], 4), ([0, 1, 2, 3], 2), ([0, 1, 2, 3], 1)],
}


def start_server(workers, model):
    return Server(
        "--tp-size", str(workers), "--dtype", "float32", "--max-total-tokens", "700",
        "--chunked-prefill-size", "64", "--max-running-requests", "32",
        # Admits more than fits, so that running requests are retracted.
        "--schedule-conservativeness", "0.05",
        "--amoeba-policy", "static", "--amoeba-layers-per-step", "1",
        model=model, env={"AMOEBA_AUDIT": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(shallow_model):
    with start_server(2, shallow_model) as running:
        yield running


def test_streams_of_two_workers_are_equal_token_for_token_at_every_boundary(server):
    check_streams(server, 2)


def test_streams_of_four_workers_are_equal_token_for_token_at_every_boundary(shallow_model):
    with start_server(4, shallow_model) as server:
        check_streams(server, 4)


def check_streams(server, workers):
    """Slots are audited at every b; with one layer a step all are passed, in both directions."""
    # One is prefilled in many chunks, so layers move in the middle of a prompt, too.
    prompts, tour = chat_prompts(20, seed=11), _TOURS[workers]
    prompts[3] = "Tell me this again: " + "a long story with a clock in it. " * 35
    plain = asyncio.run(run_clients(server.url, prompts, 5 * workers, 100))
    assert not [s.error for s in plain if s.error]
    made, chance = [], random.Random(4)

    async def disturb(done):
        """Transform without pause, beside clients that leave in the middle."""
        async with new_session() as session:
            while not done.is_set() or len(made) % len(tour):
                leaver = asyncio.create_task(
                    stream_chat(session, server.url, chance.choice(prompts), 60,
                                stop_after=chance.randint(1, 30))
                )  # fmt: skip
                change = tour[len(made) % len(tour)]
                made.append(await asyncio.to_thread(server.transform, *change))
                await leaver

    seen = len(server.log.read_text())
    moved = asyncio.run(run_clients(server.url, prompts, 5 * workers, 100, beside=disturb))
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

    async def through(seed, degree):
        running = asyncio.create_task(asyncio.to_thread(scores, seed))
        await asyncio.sleep(0.2)
        status, reply = await asyncio.to_thread(server.transform, [0, 1], degree)
        assert (status, reply["moves"]) == (200, LAYERS), reply
        return await running

    for seed in (51, 52):
        expected, chosen = scores(seed)
        for degree in (2, 1):
            server.post("/flush_cache", {})
            found, ids = asyncio.run(through(seed, degree))
            assert ids == chosen
            worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            assert worst <= 1e-4 * max(map(abs, expected)), worst


def test_state_shows_the_boundary_on_its_way(server):
    async def watch():
        async with new_session() as session:
            load = asyncio.create_task(
                stream_chat(session, server.url, "Tell me about the sea.", 60)
            )
            await asyncio.sleep(0.5)
            merge = asyncio.create_task(asyncio.to_thread(server.transform, [0, 1], 2))
            shown = []
            while not merge.done():
                operation = (await asyncio.to_thread(server.state))["operation"]
                if operation is not None:
                    shown.append(operation)
            assert (await merge)[0] == 200
            await load
        return shown

    shown = asyncio.run(watch())
    boundaries = [operation["boundary"] for operation in shown]
    assert boundaries == sorted(boundaries, reverse=True)
    assert len(set(boundaries) - {0, LAYERS}) > 1, boundaries
    assert shown[-1]["pace"] == "--amoeba-layers-per-step"
    last = server.state()["history"][-1]
    assert (last["kind"], last["moves"]) == ("merge", LAYERS)
    assert server.transform([0, 1], 1)[0] == 200
