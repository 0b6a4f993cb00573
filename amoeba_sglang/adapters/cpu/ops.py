"""RMSNorm and rotary embedding in few torch calls, by SGLang's registry of out-of-tree forwards.

SGLang's own torch versions spell both out in some ten small operators each, which costs more on a
CPU than the arithmetic.
"""

import torch
import torch.nn.functional as F


def register(platform_key: str) -> None:
    """Make the forwards below the ones that `platform_key` dispatches to, for exactly these
    classes.
    """
    from sglang.kernels.fused_op import BaseFusedOp
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
    from sglang.srt.layers.rotary_embedding.rope_variant import Llama3RotaryEmbedding

    BaseFusedOp.register_oot_forward(RMSNorm, rms_norm, platform_key)
    for rotary in (RotaryEmbedding, Llama3RotaryEmbedding):
        assert rotary.forward_native is RotaryEmbedding.forward_native, rotary
        BaseFusedOp.register_oot_forward(rotary, rotate, platform_key)


def rms_norm(self, x, residual=None, post_residual_addition=None, quant_linear=None):
    """RMSNorm of x [tokens, hidden]; with `residual`, of their sum, and returns (normed, sum)."""
    plain = (
        self.variance_size_override is None
        and not self.cast_x_before_out_mul
        and not self.fp32_residual
        and self.override_orig_dtype is None
        and self.weight.dtype == x.dtype
    )
    if not plain:
        return self.forward_native(x, residual, post_residual_addition)
    if residual is None:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)
    residual = x + residual
    if post_residual_addition is not None:
        residual = residual + post_residual_addition
    return F.rms_norm(residual, x.shape[-1:], self.weight, self.variance_epsilon), residual


def rotate(self, positions, query, key, offsets=None, fused_set_kv_buffer_arg=None):
    """Rotary embedding of query [tokens, heads * D] and key [tokens, kv_heads * D] in one pass."""
    whole = self.is_neox_style and self.rotary_dim == self.head_size and offsets is None
    if not whole or fused_set_kv_buffer_arg is not None or key.dim() != 2:
        return self.forward_native(positions, query, key, offsets, fused_set_kv_buffer_arg)
    factors = _factors(self, query.dtype).index_select(0, positions.flatten()).unsqueeze(1)
    cos, sin = factors.split(self.head_size, -1)
    split = query.shape[-1]
    both = torch.cat((query, key), -1).view(query.shape[0], -1, self.head_size)
    turned = torch.addcmul(both * cos, both.roll(self.head_size // 2, -1), sin)
    turned = turned.view(query.shape[0], -1)
    return turned[:, :split], turned[:, split:]


def _factors(self, dtype: torch.dtype) -> torch.Tensor:
    """[positions, 2 * D]: (cos, cos | -sin, sin) per position, rebuilt when SGLang replaces its own
    table.
    """
    source = self.cos_sin_cache
    memo = getattr(self, "_amoeba_factors", None)
    if memo is None or memo[0] is not source or memo[1].dtype != dtype:
        cos, sin = source.to(dtype).chunk(2, -1)
        memo = (source, torch.cat((cos, cos, -sin, sin), -1))
        self._amoeba_factors = memo
    return memo[1]
