"""A request longer than the pools of all its workers together: python -m bench.long_request.

A server with a pool of 512 tokens a worker merges, the memory of its MLP weights becomes KV memory,
and the request runs beside short ones. Its log-probabilities are compared with stock SGLang at
static --tp-size N and a large pool; the short ones with what they were before the merge.
"""

import argparse
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench import results_file
from bench.accuracy import compare
from bench.footprint import Mapping, mappings, memory_file
from bench.idle import stock_environment
from tests.serving.servers import Server

POOL = 512
SHORTS, SHORT_OUTPUT, LONG_OUTPUT = 8, 24, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    results_file.write("long_request", {f"{n} workers": measure(n) for n in options.workers})


def measure(workers: int) -> dict[str, Any]:
    rng = random.Random(workers)
    long = rng.choices(range(100, 5000), k=workers * POOL + 300)
    shorts = [rng.choices(range(100, 5000), k=60 + 9 * i) for i in range(SHORTS)]
    ranks = list(range(workers))
    flags = ("--dtype", "float32", "--chunked-prefill-size", "512")
    found: dict[str, Any] = {"prompt_tokens": len(long), "tokens_of_all_own_pools": workers * POOL}
    manual = ("--amoeba-policy", "static")
    with Server(
        "--tp-size", str(workers), "--max-total-tokens", str(POOL), *manual, *flags
    ) as server:
        before = run_all(server, shorts)
        found["refused_at_degree_1"] = refused(server, long)
        found["refused_always"] = refused(server, shorts[0] * 120)
        capacity = [instance["max_tokens"] for instance in server.state()["instances"]]
        at_one = [WeightMemory(process.pid) for process in server.workers()]
        status, merge = server.transform(ranks, workers)
        assert status == 200, merge
        [instance] = server.state()["instances"]
        found["max_tokens"] = {"each at degree 1": capacity, "merged": instance["max_tokens"]}
        found["weight_memory"] = [memory.after_merge() for memory in at_one]
        print(f"merged: {found['max_tokens']}, {found['weight_memory']}", flush=True)
        with ThreadPoolExecutor(SHORTS + 1) as pool:
            task = pool.submit(score, server, long)
            beside = list(pool.map(lambda tokens: complete(server, tokens), shorts))
            ours = task.result()
        status, split = server.transform(ranks, 1)
        assert status == 200, split
        found["weight_bytes_of_the_split"] = split["bytes_moved"]["weights"]
        found["seconds"] = {"merge": merge["seconds"], "split": split["seconds"]}
        after = run_all(server, shorts)
        found["short_requests_that_differ"] = {
            "beside the long one": sum(a != b for a, b in zip(before, beside, strict=True)),
            "after the split": sum(a != b for a, b in zip(before, after, strict=True)),
        }
    with Server(
        "--tp-size", str(workers), "--max-total-tokens", "8192", *flags,
        module="sglang.launch_server", env=stock_environment(workers),
    ) as stock:  # fmt: skip
        theirs = score(stock, long)
    found["prompt"] = compare([ours[0]], [theirs[0]])
    found["output"] = compare([ours[1]], [theirs[1]])
    print(f"{workers} workers: {found}", flush=True)
    return found


def score(
    server: Server, tokens: list[int], output: int = LONG_OUTPUT
) -> tuple[list[float], list[float]]:
    """Log-probabilities of the prompt, and of the greedy tokens after it."""
    reply = server.generate(tokens, output, return_logprob=True, logprob_start_len=0)
    meta = reply["meta_info"]
    return (
        [entry[0] for entry in meta["input_token_logprobs"][1:]],
        [entry[0] for entry in meta["output_token_logprobs"]],
    )


def complete(server: Server, tokens: list[int], output: int = SHORT_OUTPUT) -> list[int]:
    return server.generate(tokens, output)["output_ids"]


def run_all(
    server: Server, prompts: list[list[int]], output: int = SHORT_OUTPUT
) -> list[list[int]]:
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda tokens: complete(server, tokens, output), prompts))


def refused(server: Server, tokens: list[int]) -> dict[str, Any]:
    started = time.monotonic()
    status, reply = server.post(
        "/generate", {"input_ids": tokens, "sampling_params": {"max_new_tokens": LONG_OUTPUT}}
    )
    assert status == 400, reply
    return {"seconds": time.monotonic() - started, "reply": reply}


class WeightMemory:
    """The elastic weights of one worker as the system sees them, from its degree 1 on.

    At degree 1 the weights are the one mapping of the worker's memory file with most memory behind
    it: there are many KV ranges, and where unmapped pages are kept there is none yet.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file = memory_file(pid)
        self._inode = os.stat(self._file).st_ino
        whole = max(self._mappings(), key=lambda mapping: mapping.resident)
        self._low, self._high = whole.low, whole.high
        self._resident, self._physical = self._weights(), os.stat(self._file).st_blocks * 512

    def after_merge(self) -> dict[str, int]:
        """Bytes: weights mapped with memory behind them, and memory of the whole file."""
        return {
            "weights_at_degree_1": self._resident,
            "weights_merged": self._weights(),
            "file_at_degree_1": self._physical,
            "file_merged": os.stat(self._file).st_blocks * 512,
        }

    def _weights(self) -> int:
        inside = (m for m in self._mappings() if self._low <= m.low < self._high)
        return sum(mapping.resident for mapping in inside)

    def _mappings(self) -> list[Mapping]:
        """Writable ones of the worker's own memory file."""
        return [m for m in mappings(self._pid) if m.inode == self._inode and "w" in m.permissions]


if __name__ == "__main__":
    main()
