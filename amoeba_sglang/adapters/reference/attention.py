"""The attention that SGLang takes on the GPU for which the host stands."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from sglang.srt.runtime_context import get_server_args, override_platform

from amoeba_sglang.adapters.cuda.flashinfer_attention import FlashInferAttention
from amoeba_sglang.adapters.cuda.triton_attention import TritonAttention
from amoeba_sglang.adapters.cuda.trtllm_attention import TrtllmAttention
from amoeba_sglang.adapters.reference.fa3 import make_fa3
from amoeba_sglang.adapters.reference.libraries import (
    flashinfer_names,
    reference_calls,
    store_names,
    triton_names,
    trtllm_names,
)
from amoeba_sglang.planes.reference.graphs import whole
from amoeba_sglang.planes.reference.triton_calls import TritonCalls


def make_attention(model_runner: Any) -> Any:
    """Upstream's backend that the configuration names, with calls that are computed on the host."""
    gpu = get_server_args()._amoeba.gpu
    facts = {f"is_{one}": one == gpu.kind for one in ("sm90", "sm100", "sm120")}
    _give(store_names())
    with override_platform(**facts):
        return _MAKERS[gpu.attention](model_runner)


def _make_flashinfer(model_runner: Any) -> Any:
    _give(flashinfer_names())
    return FlashInferAttention(model_runner)


def _make_trtllm(model_runner: Any) -> Any:
    _give(trtllm_names(reference_calls()))
    return TrtllmAttention(model_runner)


def _make_triton(model_runner: Any) -> Any:
    _give(triton_names())
    attention = TritonAttention(model_runner)
    calls = TritonCalls(attention.decode_attention_fwd, attention.extend_attention_fwd)
    attention.decode_attention_fwd = whole(calls.decode)
    attention.extend_attention_fwd = calls.extend
    return attention


def _give(names: Mapping[ModuleType, Mapping[str, Any]]) -> None:
    """Let SGLang's modules have what they find in a process with a GPU."""
    for module, values in names.items():
        for name, value in values.items():
            setattr(module, name, value)


_MAKERS = {
    "fa3": make_fa3,
    "trtllm_mha": _make_trtllm,
    "triton": _make_triton,
    "flashinfer": _make_flashinfer,
}
