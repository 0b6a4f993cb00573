"""In which order a layer's experts lie, so that every worker of an instance has as much to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class ExpertLoads:
    """How often each expert was chosen: by layer, in the order of the checkpoint."""

    layers: tuple[tuple[int, ...], ...]

    def orders(self, chain: DegreeChain) -> tuple[tuple[int, ...], ...]:
        """Of the experts of every layer; see `balance`."""
        return tuple(tuple(balance(layer, chain)) for layer in self.layers)

    def fit(self, layers: int, experts: int) -> bool:
        """Whether they can be those of a model of so many experts in each layer."""
        return list(map(len, self.layers)) == [experts] * layers

    def to_json(self) -> str:
        """A text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ExpertLoads:
        """Raises ConfigError if it is no such text."""
        try:
            layers = [[int(load) for load in layer] for layer in json.loads(text)["layers"]]
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"expert loads: cannot be read: {error}") from error
        if any(load < 0 for layer in layers for load in layer):
            raise ConfigError("expert loads: one is below 0")
        return cls(tuple(map(tuple, layers)))


def balance(loads: Sequence[float], chain: DegreeChain) -> list[int]:
    """An order of experts by their loads: the range of every shard of every degree has as many
    experts and nearly as much load.

    The shards of a degree are halves (or thirds, ...) of those of the degree below, so the experts
    of a range are dealt out to its parts again, degree by degree.
    """
    assert len(loads) % chain.finest == 0, (len(loads), chain.finest)
    ranges = [sorted(range(len(loads)), key=lambda expert: -loads[expert])]
    for lower, higher in zip(chain.degrees, chain.degrees[1:], strict=False):
        ranges = [part for whole in ranges for part in _deal(whole, loads, higher // lower)]
    return [expert for part in ranges for expert in part]


def _deal(experts: Sequence[int], loads: Sequence[float], parts: int) -> list[list[int]]:
    """`parts` lists of equal length, the heaviest first to whom has least so far; each list falls
    in load, as `experts` do."""
    dealt: list[list[int]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    for expert in experts:
        open_ones = [p for p in range(parts) if len(dealt[p]) < len(experts) // parts]
        least = min(open_ones, key=lambda part: sums[part])
        dealt[least].append(expert)
        sums[least] += loads[expert]
    return dealt
