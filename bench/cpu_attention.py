"""Decode and prefill rate of the platform amoeba_cpu against SGLang's torch_native.

    python bench/cpu_attention.py --model-path DIR [--rounds 9] [--threads 2] [--dtype bfloat16]

Each variant has a process of its own with the model in it and the same settings. They measure in
turn, one blocked while the other works: a prefill of `batch` prompts of `context` tokens, then
greedy decode steps. A round is one turn of each, so drift and other load of the machine hit both.
Writes bench/results/cpu_attention.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "cpu_attention.json"
WARMUP_STEPS = 4
READY = "turn:"
VARIANTS = {"torch_native": "bare_cpu", "amoeba_cpu": "amoeba_cpu_default_pool"}


def activate_bare() -> str:
    return "bench.cpu_attention:BareCpu"


def activate_default_pool() -> str:
    from amoeba_sglang.adapters.cpu import offer_backend

    offer_backend()
    return "bench.cpu_attention:DefaultPoolCpu"


def __getattr__(name: str) -> type:
    """Platform classes, made when SGLang asks for them: this file also runs without SGLang."""
    from sglang.srt.platforms.cpu import CpuDeviceMixin
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import SRTPlatform

    if name == "BareCpu":
        return type(name, (CpuDeviceMixin, SRTPlatform), {"_enum": PlatformEnum.OOT})
    if name == "DefaultPoolCpu":
        from amoeba_sglang.adapters.cpu.platform import CpuPlatform

        # SGLang's own KV pool for both, so that only attention and operators differ.
        return type(name, (CpuPlatform,), {"get_kv_pool_cls": lambda self, *, kind: None})
    raise AttributeError(name)


def serve_turns(args: argparse.Namespace) -> None:
    """Child process: for every line on stdin one line of results, {"prefill_tokens_per_s",
    "decode_tokens_per_s"}.
    """
    import torch
    from sglang.benchmark import one_batch
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import PortArgs, ServerArgs

    torch.set_num_threads(args.threads)
    server_args = ServerArgs(
        model_path=args.model_path,
        device="cpu",
        dtype=args.dtype,
        attention_backend=args.variant,
        disable_cuda_graph=True,
        max_total_tokens=args.batch * (args.context + args.steps + 64),
        max_running_requests=args.batch,
        disable_radix_cache=True,
    )
    server_args.resolve_once()
    ports = PortArgs.init_new(server_args)
    publish(server_args, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    one_batch._init_process_global_configs()
    runner, _ = one_batch.load_model(server_args, ports, 0, 0)

    def run(steps: int) -> tuple[float, list[float]]:
        runner.clear()
        requests = one_batch.prepare_synthetic_inputs_for_latency_test(args.batch, args.context)
        start = time.perf_counter()
        tokens, _, batch = runner.extend(requests)
        prefill, times = time.perf_counter() - start, []
        for _ in range(steps):
            start = time.perf_counter()
            tokens, _ = runner.decode(tokens, batch)
            times.append(time.perf_counter() - start)
        return prefill, times

    run(WARMUP_STEPS)
    print(READY, flush=True)
    for _ in sys.stdin:
        prefill, times = run(WARMUP_STEPS + args.steps)
        step = statistics.median(times[WARMUP_STEPS:])
        rates = {
            "prefill_tokens_per_s": args.batch * args.context / prefill,
            "decode_tokens_per_s": args.batch / step,
        }
        print(READY, json.dumps(rates), flush=True)


class Child:
    """One variant's process."""

    def __init__(self, args: argparse.Namespace, variant: str, site: str) -> None:
        command = [sys.executable, __file__, "--child", "--variant", variant]
        for name in ("model_path", "dtype", "threads", "batch", "context", "steps"):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        environment = os.environ | {
            "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
            "SGLANG_PLATFORM": VARIANTS[variant],
            "SGLANG_USE_CPU_ENGINE": "0",
            "OMP_NUM_THREADS": str(args.threads),
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._answer()

    def _answer(self) -> str:
        for line in self._process.stdout:
            if line.startswith(READY):
                return line.removeprefix(READY)
        raise SystemExit(f"{self._process.args} ended with code {self._process.wait()}")

    def take_turn(self) -> dict[str, float]:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def write_entry_points(site: Path) -> None:
    """A distribution in `site` that registers both platforms for the children."""
    info = site / "cpu_attention_bench-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cpu-attention-bench\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[sglang.srt.platforms]\n"
        "bare_cpu = bench.cpu_attention:activate_bare\n"
        "amoeba_cpu_default_pool = bench.cpu_attention:activate_default_pool\n"
    )


def summarise(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Median, min and max of each variant and metric, and of the ratios within a round."""

    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(values), 2),
            "min": round(min(values), 2),
            "max": round(max(values), 2),
        }

    old, new = VARIANTS
    return {
        metric: {
            old: spread([r[old][metric] for r in rounds]),
            new: spread([r[new][metric] for r in rounds]),
            "ratio": spread([r[new][metric] / r[old][metric] for r in rounds]),
        }
        for metric in rounds[0][old]
    }


def describe_machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "load": os.getloadavg()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--model-path",
        default=os.environ.get("AMOEBA_TEST_MODEL", str(ROOT / ".cache/models/smollm2-135m-kv4")),
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        serve_turns(args)
        return
    rounds = []
    with tempfile.TemporaryDirectory() as site:
        write_entry_points(Path(site))
        children = {variant: Child(args, variant, site) for variant in VARIANTS}
        for number in range(args.rounds):
            # Who goes first alternates, so that a drift of the machine favours neither.
            order = list(VARIANTS)[:: 1 if number % 2 == 0 else -1]
            rounds.append({variant: children[variant].take_turn() for variant in order})
            print(f"round {number + 1}: {rounds[-1]}", flush=True)
        for child in children.values():
            child.close()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    settings = {name: getattr(args, name) for name in ("dtype", "threads", "batch", "context")}
    report = {
        "machine": describe_machine(),
        "commit": commit.stdout.strip() or "uncommitted",
        "settings": settings | {"model": Path(args.model_path).name, "rounds": args.rounds},
        "results": summarise(rounds),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["results"], indent=1))


if __name__ == "__main__":
    main()
