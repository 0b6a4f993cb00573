"""The platform class SGLang asks; everything here happens through its documented platform hooks."""

import os
from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from amoeba_sglang.adapters.cpu import NAME


class CpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Any x86-64 CPU with plain torch operators."""

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        return NAME

    def get_dispatch_key_name(self) -> str:
        return NAME

    def apply_server_args_defaults(self, server_args: Any) -> None:
        # For --device cpu SGLang fills an unset flag with its AMX backend before it asks the
        # platform, and that backend needs the kernel library that this platform does without.
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = NAME

    def init_backend(self) -> None:
        """Runs once, when what builds models is imported: workers are forks of that."""
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from amoeba_sglang.adapters.cpu import experts, ops

        register_attention_backend(NAME)(_create_attention)
        ops.register(NAME)
        experts.register(NAME)

    def post_load_model(self, model: Any) -> None:
        from amoeba_sglang.adapters.model.elastic_model import adopt_if_ours

        adopt_if_ours(model)

    def create_host_communicator(self, cpu_group: Any) -> Any | None:
        """Shared-memory collectives for every group on this host; gloo with AMOEBA_GLOO=1."""
        if os.environ.get("AMOEBA_GLOO") == "1":
            return None
        from sglang.srt.runtime_context import get_device

        from amoeba_sglang.planes.transport import HostGroup

        return HostGroup.create(cpu_group, timeout_s=get_device().watchdog_timeout)

    def get_torch_profiler_activity_str(self) -> str:
        # SGLang asks at every /start_profile; without an answer the worker ends.
        return "CPU"

    def get_torch_profiler_activity(self) -> Any:
        from torch.profiler import ProfilerActivity

        return ProfilerActivity.CPU

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False


def _create_attention(model_runner: Any) -> Any:
    from amoeba_sglang.adapters.cpu.attention import CpuAttention

    return CpuAttention(model_runner)
