"""What changes of the layout keep: prefixes, work that was done, capacity, and the model's mind."""

import re
import statistics
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from amoeba_sglang.control.layout.capacity import plan_capacity
from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from bench.gpu_bench.sides import Load
from bench.gpu_bench.switches import path_of
from bench.stagger import prompt_of
from tests.serving.load import chat_prompts
from tests.serving.servers import Server

_PREFILLED = re.compile(r"Prefill batch.*?#new-token: (\d+)")
_HALF_BYTES = 2
_NEW = 8


def change(server: Server, degree: int) -> None:
    ranks = list(range(server.state()["workers"]))
    status, reply = server.transform(ranks, degree)
    assert status == 200, reply


def prefilled(server: Server) -> int:
    """Tokens of prompts that the server has computed so far, by its own log."""
    return sum(map(int, _PREFILLED.findall(server.log.read_text(errors="replace"))))


def work(server: Server, load: Load) -> dict[str, Any]:
    """Requests are in the middle of their output while everything merges and splits; then their
    prompts come again. Nothing should have waited, nothing be computed twice."""
    degrees, output = server.state()["degrees"], 4 * load.output_tokens
    server.post("/flush_cache", {})
    prompts = [prompt_of(7000 + number, load.prompt_tokens) for number in range(load.streams)]
    computed, whole = [], []
    cached = 0
    with ThreadPoolExecutor(len(prompts)) as pool:

        def send(new_tokens: int) -> list[Future[Any]]:
            return [
                pool.submit(server.generate, prompt, new_tokens, routed_dp_rank=0)
                for prompt in prompts
            ]

        # Twice before the switches: what a prefix cache of whole pages does not have, and the last
        # token, are computed at every time.
        for switches in (False, False, True, False):
            before = prefilled(server)
            replies = send(output if switches else 1)
            for degree in (*degrees[1:], *degrees[-2::-1]) if switches else ():
                change(server, degree)
            metas = [reply.result()["meta_info"] for reply in replies]
            if switches:
                whole = [meta["completion_tokens"] == output for meta in metas]
            cached = sum(meta["cached_tokens"] for meta in metas)
            computed.append(prefilled(server) - before)
    first, usual, beside, after = computed
    return {
        "requests_in_flight": len(prompts),
        "of_these_whole": sum(whole),
        "prompt_tokens_computed_at_first": first,
        "computed_once_more": beside + after - 2 * usual,
        "cached_tokens_kept": cached,
    }


def longest(server: Server, page: int, page_kib: int) -> list[dict[str, Any]]:
    """By degree: what an instance holds, what the plan says of it given degree 1, and a request of
    the greatest length that is served. `page`: tokens of a KV page; `page_kib`: of memory."""
    degrees, found = server.state()["degrees"], []
    own = server.state()["instances"][0]["max_tokens"]
    planned = _plan(server.model, degrees, own, page=page, page_size=page_kib << 10)
    for degree in degrees:
        change(server, degree)
        state = server.state()
        most = state["max_request_tokens"]
        prompt = prompt_of(degree, most - _NEW)
        served = len(server.generate(prompt, _NEW)["output_ids"])
        status, _ = server.post("/generate", {"input_ids": prompt_of(degree, most + _NEW)})
        found.append(
            {
                "degree": degree,
                "instance_tokens": state["instances"][0]["max_tokens"],
                "planned_tokens": planned[degree],
                "longest_request": most,
                "served": served == _NEW,
                "longer_is_refused": status == 400,
            }
        )
    change(server, 1)
    return found


def _plan(
    model_path: str, degrees: list[int], own: int, *, page: int, page_size: int
) -> dict[int, int]:
    """Tokens of an instance by degree, where a worker has as many whole pages of memory as `own`
    tokens need; it may not use the rest of the last."""
    model = load_model(model_path, _HALF_BYTES, _HALF_BYTES)
    pages = WeightPages(DegreeChain(tuple(degrees)), page_size, model.mlp_layers)
    slot_bytes = page * model.token_bytes // (2 * model.layers)
    each = -(-(own // page + 1) * slot_bytes // page_size)
    weights = model.replicated_bytes + pages.total_pages * page_size
    usable = weights + 2 * model.layers * each * page_size
    return {row.degree: row.tokens for row in plan_capacity(model, pages, usable, page).degrees}


def likelihoods(server: Server, switches: int) -> dict[str, Any]:
    """Mean log-likelihood of a text by degree, at first and after so many switches."""
    text = " ".join(chat_prompts(8))[:2400]
    degrees = server.state()["degrees"]

    def by_degree() -> dict[int, float]:
        means = {}
        for degree in degrees:
            change(server, degree)
            means[degree] = statistics.fmean(server.score(text))
            server.post("/flush_cache", {})
        change(server, 1)
        return means

    first = by_degree()
    for degree in path_of(degrees, switches):
        change(server, degree)
    change(server, 1)
    return {"switches": switches, "at_first": first, "afterwards": by_degree()}
