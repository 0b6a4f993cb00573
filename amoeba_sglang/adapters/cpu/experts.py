"""Experts on a CPU by plain products, those of this worker alone.

SGLang's own torch version takes no row whose expert is on another worker: it counts and scatters by
expert ids, and the dispatcher gives such rows the id -1.
"""

from typing import Any

import torch
import torch.nn.functional as F


def register(platform_key: str) -> None:
    """Make `compute_experts` the forward that `platform_key` dispatches to."""
    from sglang.kernels.fused_op import BaseFusedOp
    from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod

    BaseFusedOp.register_oot_forward(UnquantizedFusedMoEMethod, compute_experts, platform_key)


def compute_experts(self: Any, layer: Any, dispatch_output: Any) -> Any:
    """UnquantizedFusedMoEMethod of x [tokens, hidden] and ids [tokens, k], -1 for the experts of
    others. With all experts here the bits are those of SGLang's moe_forward_native: the same
    products, and the same order of sums. Counts how often each was chosen, in
    `layer.chosen` of a layer of ExpertShards."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    config = self.moe_runner_config
    assert config.activation == "silu" and config.gemm1_alpha is None
    assert not config.apply_router_weight_on_input
    x, (weights, ids, _) = dispatch_output.hidden_states, dispatch_output.topk_output
    flat = ids.flatten()
    foreign, *counts = torch.bincount(flat + 1, minlength=len(layer.w13_weight) + 1).tolist()
    # SGLang's own launcher runs on this platform, too, and its layers are not ours to count in.
    chosen = getattr(layer, "chosen", None)
    if chosen is not None and len(counts) == len(chosen):
        chosen += counts
    # Pairs of a row and an expert by expert; those of others come first.
    pairs = flat.argsort(stable=True)[foreign:]
    used = [expert for expert, count in enumerate(counts) if count]
    rows = x.index_select(0, pairs // ids.shape[1]).split([counts[expert] for expert in used])
    outputs = [
        _expert(taken, layer.w13_weight[expert], layer.w2_weight[expert])
        for expert, taken in zip(used, rows, strict=True)
    ]
    found = x.new_zeros(len(flat), x.shape[1])
    if outputs:
        found[pairs] = torch.cat(outputs)
    weighted = found.view(*ids.shape, x.shape[1]).type(weights.dtype).mul_(weights.unsqueeze(-1))
    return StandardCombineInput(hidden_states=weighted.sum(1).type(x.dtype))


def _expert(x: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    gate, up = F.linear(x, w13).chunk(2, -1)
    return F.linear(F.silu(gate) * up, w2)
