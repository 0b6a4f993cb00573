"""Run the benchmarks one after the other: `make bench`, or `python -m bench NAME ...`."""

import subprocess
import sys

ALL = {
    "transport": ["bench.transport"],
    "kv_move": ["bench.kv_move"],
    "mlp_layout": ["bench.mlp_layout"],
    "experts": ["bench.experts"],
    "mixtures": ["bench.mixtures"],
    "page_exchange": ["bench.page_exchange"],
    "transform": ["bench.transform"],
    "long_request": ["bench.long_request"],
    "peak_memory": ["bench.peak_memory"],
    "cpu_attention": ["bench.cpu_attention"],
    "accuracy_llama": ["bench.accuracy"],
    "accuracy_qwen3": ["bench.accuracy", "--family", "qwen3"],
    "transform_cost": ["bench.transform_cost"],
    "stagger_n2": ["bench.stagger"],
    "stagger_n2_many_tokens": [
        "bench.stagger",
        "--streams",
        "1",
        "--prompt-tokens",
        "200",
        "--cached-tokens",
        "16384",
        "--name",
        "_many_tokens",
    ],
    "stagger_n4": [
        "bench.stagger",
        "--workers",
        "4",
        "--rounds",
        "6",
        "--streams",
        "2",
        "--prompt-tokens",
        "1000",
    ],
    "lock_step_n2": ["bench.lock_step"],
    "lock_step_n4": ["bench.lock_step", "--workers", "4"],
    "idle": ["bench.idle"],
    "throughput": ["bench.throughput"],
    "decision_time": ["bench.decision_time"],
    "emulation_cost": ["bench.emulation_cost"],
    "faults": ["bench.faults"],
    "hostile": ["bench.hostile"],
    "soak": ["bench.soak", "--transformations", "100"],
}


def main() -> int:
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"unknown benchmark {unknown[0]}; one of {', '.join(ALL)}", file=sys.stderr)
        return 2
    failed = []
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *ALL[name]]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
