"""bench_serving against stock SGLang, two servers side by side, runs alternating.

    python -m bench.throughput [--workers 2] [--pairs 4] [--cases dp tp tp-gloo]

dp: degree 1 against --dp-size N. tp: degree N against static --tp-size N, both with the platform's
shared-memory collectives. tp-gloo: the same with gloo in both.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results_file
from bench.idle import stock_environment
from tests.serving.servers import Server

CASES = ("dp", "tp", "tp-gloo")
KEPT = ("output_throughput", "mean_ttft_ms", "median_itl_ms", "p99_itl_ms", "completed", "duration")


@dataclass(frozen=True)
class ServingLoad:
    """What bench_serving sends: lengths in tokens, half to all of them; seconds for one run."""

    input_len: int
    output_len: int
    num_prompts: int
    concurrency: int = 16
    timeout: float = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--input-len", type=int, default=256)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-total-tokens", type=int, default=16384)
    parser.add_argument("--page-size", type=int, help="of both servers; each has its own default")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one run")
    options = parser.parse_args()
    for case in options.cases:
        figures = measure_case(case, options)
        settings = {**vars(options), "cases": [case]}
        name = f"throughput_n{options.workers}_{case}"
        if options.page_size is not None:
            name += f"_pages_of_{options.page_size}"
        results_file.write(name, {"settings": settings, **figures})


def measure_case(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both servers are up for the whole case, one asleep while the other one is measured."""
    load = ServingLoad(
        options.input_len,
        options.output_len,
        options.num_prompts,
        options.concurrency,
        options.timeout,
    )
    pairs = []
    with (
        make_server("amoeba", case, options) as amoeba,
        make_server("stock", case, options) as stock,
    ):
        servers = {"amoeba": amoeba, "stock": stock}
        for server in servers.values():
            run_bench_serving(server, load, options.workers, seed=0)
        for number in range(options.pairs):
            pair: dict[str, Any] = {}
            for side in ("amoeba", "stock") if number % 2 == 0 else ("stock", "amoeba"):
                pair[side] = run_bench_serving(servers[side], load, options.workers, seed=number)
            rates = {side: pair[side]["output_throughput"] for side in servers}
            pair["ratio"] = rates["amoeba"] / rates["stock"]
            print(
                f"{case} pair {number}: amoeba {rates['amoeba']:.1f}, stock "
                f"{rates['stock']:.1f} tokens/s, ratio {pair['ratio']:.3f}",
                flush=True,
            )
            pairs.append(pair)
    rates = [{side: pair[side]["output_throughput"] for side in servers} for pair in pairs]
    return {**results_file.compare_pairs(rates, "amoeba", "stock"), "pairs": pairs}


def make_server(side: str, case: str, options: argparse.Namespace) -> Server:
    workers = str(options.workers)
    common = ["--dtype", options.dtype, "--max-total-tokens", str(options.max_total_tokens)]
    if options.page_size is not None:
        common += ["--page-size", str(options.page_size)]
    if side == "amoeba":
        degree = "1" if case == "dp" else workers
        transport = "collective" if case == "tp-gloo" else "peer"
        flags = (
            f"--tp-size {workers} --amoeba-initial-degree {degree} "
            f"--amoeba-transport {transport} --amoeba-policy static"
        )
        return Server(*flags.split(), *common)
    environment = stock_environment(options.workers)
    if case == "tp-gloo":
        environment["AMOEBA_GLOO"] = "1"
    size = "--dp-size" if case == "dp" else "--tp-size"
    return Server(
        size, workers, "--sleep-on-idle", *common, module="sglang.launch_server", env=environment
    )


def run_bench_serving(server: Server, load: ServingLoad, workers: int, seed: int) -> dict[str, Any]:
    """One run after a flush of the prefix cache, with two warm-up requests for each worker.

    Raises RuntimeError unless all requests completed.
    """
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "run.jsonl"
        command = [
            sys.executable, "-m", "sglang.benchmark.serving", "--backend", "sglang",
            "--base-url", server.url, "--model", server.model, "--tokenizer", server.model,
            "--dataset-name", "random-ids", "--tokenize-prompt",
            "--random-input-len", str(load.input_len),
            "--random-output-len", str(load.output_len), "--random-range-ratio", "0.5",
            "--num-prompts", str(load.num_prompts),
            "--max-concurrency", str(load.concurrency), "--seed", str(seed),
            "--warmup-requests", str(workers * 2), "--flush-cache", "--disable-tqdm",
            "--output-file", str(output),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=load.timeout, env=server.env
        )
        if done.returncode != 0 or not output.exists():
            raise RuntimeError(f"bench_serving failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        result = json.loads(output.read_text().splitlines()[-1])
    if result["completed"] != load.num_prompts:
        raise RuntimeError(f"{result['completed']} of {load.num_prompts} completed")
    return {name: result[name] for name in KEPT}


if __name__ == "__main__":
    main()
