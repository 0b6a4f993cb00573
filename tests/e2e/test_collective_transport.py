"""A server whose workers share no memory: KV moves by collectives, weights stay resident."""

from __future__ import annotations

import asyncio

from bench.load import chat_prompts, run_clients
from bench.servers import Server
from tests.e2e.conftest import LAYERS


def test_streams_are_equal_token_for_token_through_a_merge_and_a_split(shallow_model):
    prompts, made = chat_prompts(8, seed=6), []
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "2048",
        "--chunked-prefill-size", "128", "--max-running-requests", "16",
        "--amoeba-policy", "static", "--amoeba-transport", "collective",
        "--amoeba-layers-per-step", "1",
        model=shallow_model,
        env={"AMOEBA_AUDIT": "1"},
    ) as server:  # fmt: skip
        plain = asyncio.run(run_clients(server.url, prompts, 8, 128))
        assert not [s.error for s in plain if s.error]

        async def change(done):
            for degree in (2, 1):
                await asyncio.sleep(0.5)
                made.append(await asyncio.to_thread(server.transform, [0, 1], degree))

        moved = asyncio.run(run_clients(server.url, prompts, 8, 128, beside=change))
        capacity = [i["max_tokens"] for i in server.state()["instances"]]
    assert [status for status, _ in made] == [200, 200], made
    assert {reply["moves"] for _, reply in made} == {LAYERS}
    assert all(reply["bytes_moved"]["kv"] > 0 for _, reply in made)
    assert not any(reply["bytes_moved"]["weights"] for _, reply in made)
    assert not [s.error for s in moved if s.error]
    assert [s.text for s in moved] == [s.text for s in plain]
    assert capacity == [2048, 2048]
