"""A second model family (Qwen3 shape, random weights) through a merge and a split."""

import pytest

from bench.servers import MODEL, Server
from tests.tiny_models import make_tiny_qwen3


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    make_tiny_qwen3(folder, seed=3, tokenizer_dir=MODEL)
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "2048",
        "--amoeba-policy", "static",
        model=str(folder), env={"AMOEBA_AUDIT": "1"},
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


def test_qwen3_scores_and_continues_alike_at_every_degree(qwen3):
    alone_ids, alone = score(qwen3)
    assert qwen3.transform([0, 1], 2)[0] == 200
    joint_ids, joint = score(qwen3)
    assert qwen3.transform([0, 1], 1)[0] == 200
    again_ids, again = score(qwen3)
    assert alone_ids == joint_ids == again_ids
    assert len(joint) == len(alone) == 299 + 16
    largest = max(abs(a) for a in alone)
    assert max(abs(a - b) for a, b in zip(alone, joint, strict=True)) < 1e-4 * largest
    assert max(abs(a - b) for a, b in zip(alone, again, strict=True)) < 1e-4 * largest
