"""How near the simulator comes to EMULATED servers: the same requests, device and policy in both.

    python -m bench.validate azure2023_conv.csv [--device h100-96-32b-tp-loss] [--dilation 6]

A trace is a CSV file with the columns timestamp_s,input_tokens,output_tokens. Every case starts a
whole server of 8 emulated workers, replays the requests against it and simulates the same arrivals.
The bar is 15 % on throughput and on the median TTFT of short requests.
"""

import argparse
import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amoeba_sglang.control.device import DeviceModel, load_device
from amoeba_sglang.errors import AmoebaError
from bench import results_file
from bench.replay import load_prompts, measure
from bench.replay_client import OneServer
from bench.replay_cpu import BODY
from bench.replay_metrics import Objective
from bench.simulate import degrees_of
from bench.simulation.mechanisms import mechanisms
from bench.simulation.replayed import batching_of, simulate_replay
from bench.trace import Recipe, Workload, read_trace
from tests.serving.servers import MODEL, Server

CHUNK_TOKENS = 512
# More than a worker of 96 GB holds.
LONG_INPUT, LONG_OUTPUT = 100_000, 100


@dataclass(frozen=True)
class Case:
    """rate: requests a second; long_percent: so many of 100 are made long ones."""

    policy: str
    rate: float
    long_percent: float = 0.0

    @property
    def name(self) -> str:
        long = f", {self.long_percent:g} % long" if self.long_percent else ""
        return f"{self.policy} at {self.rate:g}/s{long}"


CASES = (
    Case("static", 12.0),
    Case("static", 24.0),
    Case("amoeba", 12.0, 1.0),
    Case("round_robin", 12.0, 1.0),
)


def main() -> int:
    options = parse()
    try:
        device, trace = load_device(options.device), read_trace(options.trace)
        prompts = load_prompts(MODEL, options.seed)
    except AmoebaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for case in CASES:
        recipe = make_recipe(case, trace, options)
        workload = recipe.apply(trace)
        emulated = emulate(case, workload, prompts, options)
        simulated = simulate(case, workload, device, options.workers)
        rows.append(
            {
                "case": case.name,
                "recipe": asdict(recipe),
                "emulated": emulated,
                "simulated": simulated,
                "ratio": {
                    key: simulated[key] / emulated[key]
                    for key in ("requests_per_s", "tokens_per_s", "short_ttft_median")
                },
            }
        )
        print(describe(rows[-1]), flush=True)
    settings = {**vars(options), "trace": options.trace.name, "chunk_tokens": CHUNK_TOKENS}
    results_file.write("validation", {"EMULATED": True, "settings": settings, "cases": rows})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--device", default="h100-96-32b-tp-loss")
    parser.add_argument("--dilation", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=300, help="requests of a case")
    parser.add_argument("--seed", type=int, default=2, help="one that draws long requests")
    return parser.parse_args()


def make_recipe(case: Case, trace: list[Any], options: argparse.Namespace) -> Recipe:
    rows = min(options.rows, len(trace))
    span = trace[rows - 1].arrival - trace[0].arrival
    return Recipe(
        rows=rows,
        long_percent=case.long_percent,
        long_input=LONG_INPUT,
        long_output=LONG_OUTPUT,
        speed=case.rate * span / rows,
        seed=options.seed,
    )


def emulate(
    case: Case, workload: Workload, prompts: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """What a client of the server measures, in seconds of the emulated device."""
    flags = [
        "--tp-size", str(options.workers), "--amoeba-policy", case.policy,
        "--amoeba-emulate", options.device, "--amoeba-emulate-dilation", str(options.dilation),
        "--enable-mixed-chunk", "--chunked-prefill-size", str(CHUNK_TOKENS),
    ]  # fmt: skip
    with Server(*flags) as server:
        measured = asyncio.run(
            measure(OneServer(server.url), server.url, workload, prompts, BODY, timeout=600.0)
        )
    assert measured.layout is not None
    figures = measured.figures(Objective(10.0, 0.1, None, long_tokens=LONG_INPUT))
    return {
        "requests": figures["requests"],
        "requests_per_s": figures["completed"]["requests_per_s"],
        "tokens_per_s": figures["completed"]["tokens_per_s"],
        "short_ttft_median": figures["ttft_s"]["short"]["p50"],
        "short_ttft_p99": figures["ttft_s"]["short"]["p99"],
        "token_median": figures["tpot_s"]["p50"],
        "changes": len(measured.layout.operations),
        "late_share": figures["EMULATED"]["late_share"],
    }


def simulate(case: Case, workload: Workload, device: DeviceModel, workers: int) -> dict[str, Any]:
    found = mechanisms(device, degrees_of(workers))["amoeba"]
    batching = batching_of(CHUNK_TOKENS, mixed=True, ahead=True)
    outcome = simulate_replay(
        workload, case.policy, found, workers, batching, long_tokens=LONG_INPUT
    )
    return {
        "requests_per_s": outcome.completed,
        "tokens_per_s": outcome.tokens,
        "short_ttft_median": outcome.short_ttft_median,
        "short_ttft_p99": outcome.short_ttft_p99,
        "token_median": outcome.token_median,
        "changes_per_minute": outcome.changes_per_minute,
    }


def describe(row: dict[str, Any]) -> str:
    emulated, simulated, ratio = row["emulated"], row["simulated"], row["ratio"]
    return (
        f"{row['case']}: EMULATED {emulated['requests_per_s']:.2f} requests/s, median TTFT "
        f"{emulated['short_ttft_median']:.3f} s; SIMULATED {simulated['requests_per_s']:.2f} and "
        f"{simulated['short_ttft_median']:.3f} s: ratios {ratio['requests_per_s']:.2f} and "
        f"{ratio['short_ttft_median']:.2f}; TPOT {1000 * emulated['token_median']:.0f} and "
        f"{1000 * simulated['token_median']:.0f} ms; late {emulated['late_share']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
