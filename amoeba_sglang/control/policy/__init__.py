"""Pure policies, shared by the router and the simulator: no sockets, clock or sglang."""

from amoeba_sglang.control.policy.amoeba import LongRequestRules, place_beside_long_requests
from amoeba_sglang.control.policy.base import Policy
from amoeba_sglang.control.policy.least_load import place_on_least_loaded
from amoeba_sglang.control.policy.plain_rules import PlainRules
from amoeba_sglang.control.policy.round_robin import place_in_turn

POLICIES: dict[str, Policy] = {
    "amoeba": Policy(place_beside_long_requests, LongRequestRules()),
    "least_load": Policy(place_on_least_loaded, PlainRules(in_turn=False)),
    "round_robin": Policy(place_in_turn, PlainRules(in_turn=True)),
    "static": Policy(place_on_least_loaded),
}
