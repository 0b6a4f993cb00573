"""The platform of a process that pretends to have a GPU: the CPU's, with a GPU's attention."""

from typing import Any

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

        from amoeba_sglang.adapters.reference.attention import make_attention

        register_attention_backend(NAME)(make_attention)
