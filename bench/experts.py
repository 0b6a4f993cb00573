"""A layer of experts at degree 1 beside SGLang's own for the CPU: python -m bench.experts.

The layer of a small Qwen3-MoE (16 experts of 128 columns, hidden 256, 4 a token) and one with the
shape of Qwen3-30B-A3B's (128 of 768, hidden 2048, 8 a token; in float32 they take 2.4 GB, so it
is measured in bfloat16 alone). One thread; the two take turns.
"""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt.layers.moe.fused_moe_native import moe_forward_native
from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
from sglang.srt.layers.moe.topk import StandardTopKOutput

from amoeba_sglang.adapters.cpu.experts import compute_experts
from bench import results_file

_ROWS = {1: 60, 8: 40, 64: 20, 512: 16}


@dataclass(frozen=True)
class Shape:
    experts: int
    columns: int
    hidden: int
    chosen: int


SMALL, LARGE = Shape(16, 128, 256, 4), Shape(128, 768, 2048, 8)


def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    for name, shape, dtypes in (
        ("small", SMALL, (torch.float32, torch.bfloat16)),
        ("as Qwen3-30B-A3B", LARGE, (torch.bfloat16,)),
    ):
        for dtype in dtypes:
            layer = make_layer(shape, dtype)
            for rows, rounds in _ROWS.items():
                case = f"{name}, {str(dtype).removeprefix('torch.')}, {rows} rows"
                figures[case] = measure(layer, shape, rows, rounds, dtype)
                print(case, figures[case], flush=True)
    results_file.write("experts", {"milliseconds": figures})


def make_layer(shape: Shape, dtype: torch.dtype) -> Any:
    return SimpleNamespace(
        num_experts=shape.experts,
        chosen=np.zeros(shape.experts, dtype=np.int64),
        w13_weight=torch.randn(shape.experts, 2 * shape.columns, shape.hidden).mul_(0.02).to(dtype),
        w2_weight=torch.randn(shape.experts, shape.hidden, shape.columns).mul_(0.02).to(dtype),
    )


def measure(
    layer: Any, shape: Shape, rows: int, rounds: int, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Milliseconds of either, and ours as a share of SGLang's, by round."""
    config = MoeRunnerConfig(
        num_experts=shape.experts, num_local_experts=shape.experts, activation="silu"
    )
    method = SimpleNamespace(moe_runner_config=config)
    times: dict[str, list[float]] = {"SGLang": [], "Amoeba": []}
    for number in range(rounds + 1):
        x = torch.randn(rows, shape.hidden).to(dtype)
        ids = torch.rand(rows, shape.experts).topk(shape.chosen).indices.to(torch.int32)
        routed = StandardTopKOutput(torch.rand(rows, shape.chosen), ids, None)
        output = SimpleNamespace(hidden_states=x, topk_output=routed)
        ways = {
            "SGLang": lambda: moe_forward_native(layer, x, routed, config),  # noqa: B023
            "Amoeba": lambda: compute_experts(method, layer, output),  # noqa: B023
        }
        for way in sorted(ways, reverse=number % 2 == 0):
            start = time.perf_counter()
            ways[way]()
            # The first round warms up.
            if number:
                times[way].append((time.perf_counter() - start) * 1e3)
    shares = [ours / theirs for ours, theirs in zip(times["Amoeba"], times["SGLang"], strict=True)]
    return {
        **{way: results_file.spread(values) for way, values in times.items()},
        "share": results_file.spread(shares),
    }


if __name__ == "__main__":
    main()
