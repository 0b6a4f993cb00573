"""Everything that is compared on a device: Amoeba, its baselines, static layouts and rivals."""

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.base import Policy
from bench.simulation.mechanisms import Mechanism
from bench.simulation.run import Contender

# Degrees of the instances of a host of 8 workers.
_HYBRIDS = {
    "6xTP1+TP2": (2, 2, 1, 1, 1, 1, 1, 1),
    "4xTP1+2xTP2": (2, 2, 2, 2, 1, 1, 1, 1),
    "4xTP1+TP4": (4, 4, 4, 4, 1, 1, 1, 1),
    "2xTP2+TP4": (4, 4, 4, 4, 2, 2, 2, 2),
}


def static_contenders(found: dict[str, Mechanism], workers: int) -> dict[int, Contender]:
    """By degree, uniform layouts. They place as `amoeba` does, which is the best for them."""
    policy = Policy(POLICIES["amoeba"].place)
    return {
        degree: Contender(
            f"{workers // degree}xTP{degree}", policy, found["static"], (degree,) * workers
        )
        for degree in found["static"].tokens
        if workers % degree == 0
    }


def contenders(found: dict[str, Mechanism], workers: int) -> dict[str, Contender]:
    """By name; hybrids only for a host of 8 workers."""
    amoeba = POLICIES["amoeba"]
    every = list(static_contenders(found, workers).values())
    if workers == 8:
        policy = Policy(amoeba.place)
        every += [
            Contender(name, policy, found["static"], layout) for name, layout in _HYBRIDS.items()
        ]
    every += [
        Contender("amoeba", amoeba, found["amoeba"]),
        Contender("round_robin", POLICIES["round_robin"], found["amoeba"]),
        Contender("least_load", POLICIES["least_load"], found["amoeba"]),
    ]
    every += [
        Contender(name, amoeba, found[name])
        for name in ("restart", "seesaw", "kunserve", "loongserve")
    ]
    return {contender.name: contender for contender in every}
