"""Pure routing policies, shared by the router and the simulator: no sockets, clock or sglang."""

from __future__ import annotations

from amoeba_sglang.policy.base import Decision, Policy, RequestSize, View, WorkerLoad
from amoeba_sglang.policy.least_load import place_on_least_loaded
from amoeba_sglang.policy.round_robin import place_in_turn

# "static" places like least_load; that its layout never changes by itself is the router's part.
POLICIES: dict[str, Policy] = {
    "static": place_on_least_loaded,
    "least_load": place_on_least_loaded,
    "round_robin": place_in_turn,
}

__all__ = ["POLICIES", "Decision", "Policy", "RequestSize", "View", "WorkerLoad"]
