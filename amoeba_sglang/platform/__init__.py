"""The out-of-tree SGLang platform "amoeba_cpu": any x86-64 CPU, no AMX kernel library.

Registered in the entry point group `sglang.srt.platforms`; SGLang resolves it in every process
before it parses arguments, and then asks the platform class for everything else.
"""

from __future__ import annotations

from amoeba_sglang.platform.cores import cpu_bindings, threads_per_worker

NAME = "amoeba_cpu"

__all__ = ["NAME", "activate", "cpu_bindings", "threads_per_worker"]


def activate() -> str:
    """Entry point: offer the attention backend as a flag value and name the platform class."""
    # SGLang is half imported when it calls this; its list of choices imports nothing.
    from sglang.srt.arg_groups import choices

    if NAME not in choices.ATTENTION_BACKEND_CHOICES:
        choices.add_attention_backend_choices([NAME])
    return "amoeba_sglang.platform.cpu:CpuPlatform"
