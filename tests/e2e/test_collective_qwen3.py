"""A second model family (Qwen3 shape, random weights), on workers that share no memory: KV moves by
collectives, and weights stay resident.
"""

import asyncio

import pytest

from tests.serving.load import chat_prompts, run_clients
from tests.serving.servers import MODEL, Server
from tests.serving.tiny_models import LAYERS, make_tiny


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    make_tiny(folder, "qwen3", seed=3, tokenizer_dir=MODEL)
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "2048",
        "--chunked-prefill-size", "128", "--max-running-requests", "16",
        "--amoeba-policy", "static", "--amoeba-transport", "collective",
        "--amoeba-layers-per-step", "1",
        model=str(folder), module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


def score(server):
    tokens = [(37 * i) % 30000 + 50 for i in range(300)]
    reply = server.generate(tokens, 16, return_logprob=True, logprob_start_len=0)
    server.post("/flush_cache", {})
    meta = reply["meta_info"]
    return reply["output_ids"], [
        entry[0] for entry in meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]
    ]


def test_scores_and_continuations_are_alike_at_every_degree(server):
    alone_ids, alone = score(server)
    assert server.transform([0, 1], 2)[0] == 200
    joint_ids, joint = score(server)
    assert server.transform([0, 1], 1)[0] == 200
    again_ids, again = score(server)
    assert alone_ids == joint_ids == again_ids
    assert len(joint) == len(alone) == 299 + 16
    largest = max(abs(a) for a in alone)
    assert max(abs(a - b) for a, b in zip(alone, joint, strict=True)) < 1e-4 * largest
    assert max(abs(a - b) for a, b in zip(alone, again, strict=True)) < 1e-4 * largest


def test_streams_are_equal_token_for_token_through_a_merge_and_a_split(server):
    prompts, made = chat_prompts(8, seed=6), []
    plain = asyncio.run(run_clients(server.url, prompts, 8, 300))
    assert not [s.error for s in plain if s.error]

    async def change(done):
        for degree in (2, 1):
            await asyncio.sleep(0.3)
            assert not done.is_set(), "the streams were too short"
            made.append(await asyncio.to_thread(server.transform, [0, 1], degree))

    moved = asyncio.run(run_clients(server.url, prompts, 8, 300, beside=change))
    assert [status for status, _ in made] == [200, 200], made
    assert {reply["moves"] for _, reply in made} == {LAYERS}
    assert all(reply["bytes_moved"]["kv"] > 0 for _, reply in made)
    assert not any(reply["bytes_moved"]["weights"] for _, reply in made)
    assert not [s.error for s in moved if s.error]
    assert [s.text for s in moved] == [s.text for s in plain]
    assert [i["max_tokens"] for i in server.state()["instances"]] == [2048, 2048]
