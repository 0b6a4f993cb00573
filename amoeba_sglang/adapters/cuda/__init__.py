"""The out-of-tree SGLang platform "amoeba_cuda": SGLang's own for CUDA, and workers that merge.

Registered beside "amoeba_cpu"; see there. Not yet run on a GPU.
"""

import os

from amoeba_sglang.adapters.cpu import VARIABLE

NAME = "amoeba_cuda"


def activate() -> str | None:
    """Entry point: name the platform class; None unless SGLANG_PLATFORM asks for it."""
    if os.environ.get(VARIABLE) != NAME:
        return None
    return "amoeba_sglang.adapters.cuda.platform:CudaPlatform"
