"""The out-of-tree SGLang platform "amoeba_cpu": any x86-64 CPU, no AMX kernel library.

Registered in the entry point group `sglang.srt.platforms`; SGLang resolves it in every process
before it parses arguments, and then asks the platform class for everything else.
"""

import os

NAME = "amoeba_cpu"
VARIABLE = "SGLANG_PLATFORM"
"""SGLang's own variable; the launcher sets it where no GPU is asked for."""


def activate() -> str | None:
    """Entry point: name the platform class; None unless SGLANG_PLATFORM asks for it.

    Without the variable SGLang takes any platform that answers, on every device: a package that is
    merely installed would then replace stock SGLang's own choice.
    """
    if os.environ.get(VARIABLE) != NAME:
        return None
    offer_backend()
    return "amoeba_sglang.adapters.cpu.platform:CpuPlatform"


def offer_backend() -> None:
    """Make the attention backend a value of --attention-backend."""
    # SGLang is half imported when it calls this; its list of choices imports nothing.
    from sglang.srt.arg_groups import choices

    if NAME not in choices.ATTENTION_BACKEND_CHOICES:
        choices.add_attention_backend_choices([NAME])
