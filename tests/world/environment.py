"""What must hold in a process before it imports upstream, and the import itself, which takes longer
than most of what is played: whoever plays often imports once, and forks."""

import os
import sys
from importlib import import_module

# Imports nearly all of the rest.
_UPSTREAM = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.data_parallel_controller",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.models.llama",
    "sglang.srt.server_args",
)


def settle(module: str, argv: list[str]) -> None:
    """Set the environment; where that is too late, start `python -m module` again."""
    os.environ.setdefault("SGLANG_PLATFORM", "amoeba_cpu")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = "1"
    # Pools are a hundredth of real ones, and so is the output that admission counts on.
    os.environ.setdefault("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION", "32")
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order, which must be the same for ever.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", module, *argv])


def import_upstream() -> None:
    """Import what a mutant does not change."""
    for module in _UPSTREAM:
        import_module(module)
