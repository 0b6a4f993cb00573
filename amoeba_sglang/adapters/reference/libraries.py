"""What SGLang takes from FlashInfer, for a process without a GPU.

SGLang's modules leave these names undefined where there is no GPU; what is given here checks every
call against the installed library (planes/reference) and computes it by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import flashinfer
import flashinfer.decode
import flashinfer.prefill
import torch
from sglang.kernels.ops.attention.kv_indices import create_flashinfer_kv_indices_triton
from sglang.kernels.ops.attention.trtllm_mha_page_table import build_trtllm_mha_page_table
from sglang.srt.layers.attention import flashinfer_backend, trtllm_mha_backend
from sglang.srt.mem_cache import kv_index_translator, memory_pool

from amoeba_sglang.planes.reference.device import INTERPRETER
from amoeba_sglang.planes.reference.flashinfer_calls import (
    PagedDecode,
    PagedPrefill,
    RaggedPrefill,
    merge_states,
)
from amoeba_sglang.planes.reference.graphs import whole
from amoeba_sglang.planes.reference.store_calls import StoreCalls
from amoeba_sglang.planes.reference.trtllm_calls import TrtllmCalls


def reference_calls() -> TrtllmCalls:
    """The attention calls, held against the installed library."""
    return TrtllmCalls(
        flashinfer.decode.trtllm_batch_decode_with_kv_cache,
        flashinfer.prefill.trtllm_fmha_v2_prefill,
        flashinfer.prefill.trtllm_batch_context_with_kv_cache,
    )


def _one_at_a_time(launch: Callable[..., Any]) -> Callable[..., Any]:
    def launch_alone(*args: Any, **kwargs: Any) -> Any:
        with INTERPRETER:
            return launch(*args, **kwargs)

    return launch_alone


class OneAtATime:
    """A kernel that is launched as `kernel[grid](...)`."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return _one_at_a_time(self._kernel[grid])


class TorchOnHost:
    """torch, but for memory that SGLang's code asks of a GPU by name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return torch.empty(*shape, device="cpu" if device == "cuda" else device, **kwargs)


def _wrappers() -> dict[str, type]:
    kinds = {
        "BatchDecodeWithPagedKVCacheWrapper": PagedDecode,
        "BatchPrefillWithPagedKVCacheWrapper": PagedPrefill,
        "BatchPrefillWithRaggedKVCacheWrapper": RaggedPrefill,
    }
    return {
        name: type(name, (kind,), {"real": getattr(flashinfer, name)})
        for name, kind in kinds.items()
    }


_STORE = memory_pool._set_kv_buffer_impl


def store_names() -> Mapping[ModuleType, Mapping[str, Any]]:
    """By module of SGLang, what puts tokens into a pool; without a GPU it would take any slot."""
    return {memory_pool: {"_set_kv_buffer_impl": whole(StoreCalls(_STORE).store)}}


def flashinfer_names() -> Mapping[ModuleType, Mapping[str, Any]]:
    """By module of SGLang, the names that `flashinfer` needs."""
    others = {"_safe_merge_state": merge_states, "fast_decode_plan": None, "torch": TorchOnHost()}
    return {flashinfer_backend: {**_wrappers(), **others}, **triton_names()}


def triton_names() -> Mapping[ModuleType, Mapping[str, Any]]:
    """By module of SGLang, what `triton` and `flashinfer` launch in `init_forward_metadata`."""
    # The kernel itself, not what a backend of this process has got already: it would be locked out
    # by its own lock.
    kernel = OneAtATime(create_flashinfer_kv_indices_triton)
    return {kv_index_translator: {"create_flashinfer_kv_indices_triton": kernel}}


def trtllm_names(calls: TrtllmCalls) -> Mapping[ModuleType, Mapping[str, Any]]:
    """By module of SGLang, the names that `trtllm_mha` needs; it makes the wrappers and plans
    nothing with them."""
    return {
        flashinfer_backend: _wrappers(),
        trtllm_mha_backend: {
            "flashinfer": SimpleNamespace(
                decode=SimpleNamespace(trtllm_batch_decode_with_kv_cache=whole(calls.decode)),
                prefill=SimpleNamespace(
                    trtllm_fmha_v2_prefill=calls.prefill,
                    trtllm_batch_context_with_kv_cache=calls.context,
                ),
            ),
            "build_trtllm_mha_page_table": _one_at_a_time(build_trtllm_mha_page_table),
            # Sized by the processors of the GPU.
            "make_persistent_multi_ctas_kv_counter_buffer": lambda device, **_: torch.zeros(
                1, dtype=torch.uint8, device=device
            ),
        },
    }
