"""How the ranks of a block talk to each other while they step together."""

import numpy as np
import torch.distributed as dist

from amoeba_sglang.planes.transport.base import PeerLostError, TransportError, TransportGroup
from amoeba_sglang.planes.transport.bell import Bell
from amoeba_sglang.planes.transport.collective import GlooGroup
from amoeba_sglang.planes.transport.host import HostGroup

__all__ = [
    "Bell",
    "GlooGroup",
    "HostGroup",
    "PeerLostError",
    "TransportError",
    "TransportGroup",
    "create_group",
]


def create_group(
    kind: str,
    cpu_group: dist.ProcessGroup,
    timeout_s: float = 300.0,
    freeze_s: float = 8.0,
    progress: np.ndarray | None = None,
) -> TransportGroup:
    """Build a group over the ranks of `cpu_group` (gloo); collective.

    `kind` is the value of --amoeba-transport: "peer" (shared memory) or "collective", which cannot
    see the `progress` of others, nor that they are stopped: there one wait lasts `timeout_s`.
    """
    if kind == "peer":
        return HostGroup.create(
            cpu_group, timeout_s=timeout_s, freeze_s=freeze_s, progress=progress
        )
    assert kind == "collective", kind
    return GlooGroup(cpu_group, timeout_s)
