"""The CUDA plane on the REFERENCE device: SGLang on a host that pretends to have GPUs.

Registered beside "amoeba_cpu"; see there.
"""

import os

from amoeba_sglang.adapters.cpu import VARIABLE

NAME = "amoeba_reference"


def activate() -> str | None:
    """Entry point: name the platform class; None unless SGLANG_PLATFORM asks for it."""
    if os.environ.get(VARIABLE) != NAME:
        return None
    # SGLang is half imported when it calls this; its list of choices imports nothing.
    from sglang.srt.arg_groups import choices

    if NAME not in choices.ATTENTION_BACKEND_CHOICES:
        choices.add_attention_backend_choices([NAME])
    return "amoeba_sglang.adapters.reference.platform:ReferencePlatform"
