"""What a desk knows from its start and nothing changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import Policy
from amoeba_sglang.control.policy.throughput import ThroughputTable
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.waiting_limits import WaitingLimits


@dataclass(frozen=True)
class Terms:
    """workers: how many there are; layers: of the model. initial_degree: of all instances when the
    desk opens. max_rows: requests that one worker may run at a time. prepare_timeout_s: for the
    votes about an order; finish_timeout_s: from COMMIT or a sign of progress to the next.
    truncates: whether workers cut what they cannot hold, so that any can have any request.
    saved_table: what steps cost until they are measured. plane: what computes, a word. emulated:
    what the state says of a server that only pretends to compute. no_weights: why weights can be
    neither read nor updated.
    """

    policy: Policy
    chain: DegreeChain
    capacity: Capacity
    waiting: WaitingLimits
    workers: int
    layers: int
    initial_degree: int
    max_rows: int
    prepare_timeout_s: float
    finish_timeout_s: float
    truncates: bool = False
    saved_table: ThroughputTable | None = None
    plane: str = "cpu"
    emulated: Mapping[str, Any] | None = None
    no_weights: str = ""
