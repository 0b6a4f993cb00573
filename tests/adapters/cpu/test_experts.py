"""Experts by plain products give SGLang's bits where SGLang has a version for the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sglang.srt.layers.moe.fused_moe_native import moe_forward_native
from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
from sglang.srt.layers.moe.topk import StandardTopKOutput

from amoeba_sglang.adapters.cpu.experts import compute_experts

EXPERTS, HIDDEN, COLUMNS, CHOSEN = 16, 64, 48, 4
CONFIG = MoeRunnerConfig(num_experts=EXPERTS, num_local_experts=EXPERTS, activation="silu")


def layer_of(dtype):
    noise = torch.Generator().manual_seed(1)
    return SimpleNamespace(
        num_experts=EXPERTS,
        chosen=np.zeros(EXPERTS, dtype=np.int64),
        w13_weight=torch.randn(EXPERTS, 2 * COLUMNS, HIDDEN, generator=noise).to(dtype),
        w2_weight=torch.randn(EXPERTS, HIDDEN, COLUMNS, generator=noise).to(dtype),
    )


def route(count, dtype):
    noise = torch.Generator().manual_seed(count)
    ids = [torch.randperm(EXPERTS, generator=noise)[:CHOSEN] for _ in range(count)]
    ids = torch.stack(ids).to(torch.int32) if ids else torch.zeros(0, CHOSEN, dtype=torch.int32)
    weights = torch.rand(count, CHOSEN, generator=noise)
    x = torch.randn(count, HIDDEN, generator=noise).to(dtype)
    return x, StandardTopKOutput(weights, ids, None)


def compute(layer, x, routed):
    method = SimpleNamespace(moe_runner_config=CONFIG)
    output = SimpleNamespace(hidden_states=x, topk_output=routed)
    return compute_experts(method, layer, output).hidden_states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 8, 64, 512])
def test_the_bits_are_sglang_s(count, dtype):
    layer, (x, routed) = layer_of(dtype), route(count, dtype)
    ours = compute(layer, x, routed)
    assert ours.dtype == dtype
    assert torch.equal(ours, moe_forward_native(layer, x, routed, CONFIG))


def test_rows_of_absent_experts_add_nothing():
    layer, (x, routed) = layer_of(torch.float32), route(9, torch.float32)
    ids = routed.topk_ids
    here = torch.where(ids < EXPERTS // 2, ids, -1)
    half = SimpleNamespace(
        w13_weight=layer.w13_weight[: EXPERTS // 2],
        w2_weight=layer.w2_weight[: EXPERTS // 2],
        chosen=layer.chosen,
    )
    weights = torch.where(here < 0, 0.0, routed.topk_weights)
    expected = compute(layer, x, routed._replace(topk_weights=weights))
    torch.testing.assert_close(compute(half, x, routed._replace(topk_ids=here)), expected)


def test_a_layer_of_sglang_s_own_launcher_is_computed_and_not_counted():
    layer, (x, routed) = layer_of(torch.float32), route(5, torch.float32)
    expected = compute(layer, x, routed)
    del layer.chosen
    assert torch.equal(compute(layer, x, routed), expected)


def test_nothing_to_do():
    layer, (x, routed) = layer_of(torch.float32), route(3, torch.float32)
    nobody = routed._replace(topk_ids=torch.full_like(routed.topk_ids, -1))
    assert torch.equal(compute(layer, x, nobody), torch.zeros_like(x))
    x, routed = route(0, torch.float32)
    assert compute(layer, x, routed).shape == (0, HIDDEN)
