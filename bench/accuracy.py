"""Teacher-forced log-probabilities and NLL of degree-d instances against stock static TP.

    python -m bench.accuracy [--family llama|qwen3] [--workers 4]

Prompts are fixed token sequences. The elastic server scores them (prefill) at every degree, and
once more as decode steps; stock SGLang scores them at static --tp-size d on the same platform. The
Llama is the bundled model, the Qwen3 a small one of random weights.
"""

import argparse
import random
import tempfile
from typing import Any

from bench import results_file
from tests.serving.servers import MODEL, Server
from tests.serving.tiny_models import make_tiny

COMMON = ("--dtype", "float32", "--max-total-tokens", "4096", "--chunked-prefill-size", "512")


def prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    rng = random.Random(11)
    return [[rng.randrange(200, vocabulary) for _ in range(length + 37 * i)] for i in range(count)]


def score(server: Server, tokens: list[int], **route: int) -> list[float]:
    """Log-probability of every token but the first, given those before it."""
    scores = server.score(tokens, **route)
    server.post("/flush_cache", {})
    return scores


def decode_scores(server: Server, tokens: list[int], **route: int) -> list[float]:
    """Log-probabilities of 32 greedy tokens after the prompt, made by decode steps."""
    reply = server.generate(tokens, 32, return_logprob=True, **route)
    server.post("/flush_cache", {})
    return [entry[0] for entry in reply["meta_info"]["output_token_logprobs"]]


def compare(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    scale = max(abs(b) for _, b in pairs)
    nll = [-sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    return {
        "tokens": len(pairs),
        "max_difference": max(abs(a - b) for a, b in pairs),
        "max_relative_to_largest": max(abs(a - b) for a, b in pairs) / scale,
        "nll": nll[0],
        "stock_nll": nll[1],
        "nll_relative_difference": abs(nll[0] - nll[1]) / nll[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="llama", choices=("llama", "qwen3"))
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amoeba-model-") as folder:
        model = MODEL
        if options.family == "qwen3":
            model = str(make_tiny(folder, "qwen3", seed=3, tokenizer_dir=MODEL))
        figures = measure(model, options.workers)
    results_file.write(f"accuracy_{options.family}", figures)


def measure(model: str, workers: int) -> dict[str, Any]:
    texts = prompts(6, 150, 40000)
    degrees = [d for d in (1, 2, 4) if d <= workers]
    ours: dict[int, tuple[list, list]] = {}
    manual = ("--amoeba-policy", "static")
    with Server("--tp-size", str(workers), *manual, *COMMON, model=model) as server:
        ranks = list(range(workers))
        for degree in degrees:
            status, reply = server.transform(ranks, degree)
            assert status == 200, reply
            print(f"scoring at degree {degree}", flush=True)
            homes = [{"routed_dp_rank": i % workers} for i in range(len(texts))]
            ours[degree] = (
                [score(server, t, **h) for t, h in zip(texts, homes, strict=True)],
                [decode_scores(server, t, **h) for t, h in zip(texts, homes, strict=True)],
            )
    figures = {}
    binding = {1: "0", 2: "0|1", 4: "0|0|1|1"}
    for degree in degrees:
        print(f"stock at --tp-size {degree}", flush=True)
        environment = {
            "SGLANG_CPU_OMP_THREADS_BIND": binding[degree], "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        with Server(
            "--tp-size", str(degree), *COMMON,
            module="sglang.launch_server", model=model, env=environment,
        ) as stock:  # fmt: skip
            prefill = [score(stock, t) for t in texts]
            decode = [decode_scores(stock, t) for t in texts]
        figures[f"degree_{degree}"] = {
            "prefill": compare(ours[degree][0], prefill),
            "decode": compare(ours[degree][1], decode),
        }
    return figures


if __name__ == "__main__":
    main()
