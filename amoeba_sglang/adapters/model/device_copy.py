"""How small vectors of a step get from the host to the device."""

import torch
from sglang.srt.utils.common import is_pin_memory_available


def copy_to(device: torch.device | str, host: torch.Tensor) -> torch.Tensor:
    """`host` on the device, copied in the order of the current stream; nobody waits for it. On a
    CPU `host` itself."""
    if torch.device(device).type == "cpu":
        return host
    # From memory that may be paged out a copy would wait for the stream.
    pinned = host.pin_memory() if is_pin_memory_available(device) else host
    return pinned.to(device, non_blocking=True)
