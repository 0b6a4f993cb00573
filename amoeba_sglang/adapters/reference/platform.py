"""The platform of a process that pretends to have a GPU: the CPU's, with a GPU's attention."""

from typing import Any

from sglang.srt.runtime_context import get_server_args, override_platform

from amoeba_sglang.adapters.cpu.platform import CpuPlatform
from amoeba_sglang.adapters.reference import NAME


class ReferencePlatform(CpuPlatform):
    """Tensors are on the host; what is pretended is which kernels there are."""

    def get_default_attention_backend(self) -> str:
        return NAME

    def apply_server_args_defaults(self, server_args: Any) -> None:
        server_args.attention_backend = NAME

    def init_backend(self) -> None:
        super().init_backend()
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from amoeba_sglang.adapters.reference.libraries import reference_calls, trtllm_names

        for module, names in trtllm_names(reference_calls()).items():
            for name, value in names.items():
                setattr(module, name, value)
        register_attention_backend(NAME)(_create_attention)


def _create_attention(model_runner: Any) -> Any:
    from amoeba_sglang.adapters.cuda.trtllm_attention import TrtllmAttention

    kind = get_server_args()._amoeba.reference
    kinds = {f"is_{one}": one == kind for one in ("sm90", "sm100", "sm120")}
    with override_platform(**kinds):
        return TrtllmAttention(model_runner)
