"""Mixtures of experts, random weights: each worker computes whole experts at every degree."""

import asyncio
from pathlib import Path

import pytest

from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.expert_order import ExpertLoads
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from bench.long_request import WeightMemory
from tests.e2e.conftest import split_all
from tests.serving.load import chat_prompts, run_clients
from tests.serving.servers import MODEL, Server
from tests.serving.tiny_models import LAYERS, make_tiny

PAGE_KIB = 64
# Of degree 1 and up: by how many workers.
CHAINS = {"qwen2_moe": (1, 2, 4), "qwen3_moe": (1, 2), "mixtral": (1, 2)}
# Of which it is known how often each expert was chosen.
ORDERED = ("qwen3_moe",)


@pytest.fixture(scope="module", params=CHAINS)
def mixture(request, tmp_path_factory):
    """A server, its degrees, and where its model is."""
    folder = str(tmp_path_factory.mktemp(request.param))
    make_tiny(folder, request.param, seed=3, tokenizer_dir=MODEL)
    degrees = CHAINS[request.param]
    flags = ("--amoeba-expert-loads", write_loads(folder)) if request.param in ORDERED else ()
    with Server(
        "--tp-size", str(degrees[-1]), "--dtype", "float32", "--max-total-tokens", "1024",
        "--chunked-prefill-size", "128", "--max-running-requests", "16",
        "--amoeba-policy", "static", "--amoeba-page-size-kib", str(PAGE_KIB),
        "--skip-server-warmup", *flags, model=folder, module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running, degrees, folder


def write_loads(folder):
    """Of experts that differ, so that they lie in another order than in the checkpoint."""
    mixture = load_model(folder, 4, 4).mixture
    loads = [[(37 * n + layer) % 101 for n in range(mixture.experts)] for layer in range(LAYERS)]
    file = Path(folder) / "loads.json"
    file.write_text(ExpertLoads(tuple(map(tuple, loads))).to_json())
    return str(file)


def change_all(server, degree, workers):
    status, reply = server.transform(list(range(workers)), degree)
    assert (status, reply["outcome"]) == (200, "done"), reply


def test_scores_are_alike_and_memory_is_the_plan_s_at_every_degree(mixture):
    server, degrees, folder = mixture
    tokens = [(37 * i) % 30000 + 50 for i in range(300)]
    split_all(server)
    alone = server.score(tokens)
    model = load_model(folder, 4, 4)
    pages = WeightPages(DegreeChain(degrees), PAGE_KIB << 10, model.mlp_layers)
    memory = [WeightMemory(process.pid) for process in server.workers()]
    for degree in degrees[1:]:
        change_all(server, degree, degrees[-1])
        for index, worker in enumerate(memory):
            found = worker.after_merge()
            assert found["weights_at_degree_1"] == pages.total_pages * pages.page_size
            kept = pages.kept_pages(degree, index).size
            assert found["weights_merged"] == kept * pages.page_size
        server.post("/flush_cache", {})
        joint = server.score(tokens)
        assert max(abs(a - b) for a, b in zip(alone, joint, strict=True)) < 1e-4
    split_all(server)
    server.post("/flush_cache", {})
    assert server.score(tokens) == alone


def test_streams_are_equal_token_for_token_through_every_degree(mixture):
    server, degrees, _ = mixture
    split_all(server)
    prompts = chat_prompts(16, seed=2)
    plain = asyncio.run(run_clients(server.url, prompts, 16, 64))
    assert not [s.error for s in plain if s.error]
    made = []

    async def tour(done):
        while not done.is_set() or len(made) < 3:
            for degree in (*degrees[1:], *degrees[-2::-1]):
                await asyncio.to_thread(change_all, server, degree, degrees[-1])
                made.append(degree)

    moved = asyncio.run(run_clients(server.url, prompts, 16, 64, beside=tour))
    assert not [s.error for s in moved if s.error]
    assert [s.text for s in moved] == [s.text for s in plain]
