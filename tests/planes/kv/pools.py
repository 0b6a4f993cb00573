"""A model of the KV pools of a block: which value must be where, written down unit by unit."""

from dataclasses import dataclass, field

import numpy as np
import torch

from amoeba_sglang.control.layout.slots import DegreeChain

Units = dict[tuple[int, int, int, int], float]


@dataclass
class PoolModel:
    """The live units of a block and their values. `live`: ascending local slots by home worker."""

    chain: DegreeChain
    layers: int
    rows: int
    degrees: tuple[int, ...]
    live: list[np.ndarray] = field(default_factory=list)
    values: dict[tuple[int, int, int, int, int], float] = field(default_factory=dict)
    written: int = 0

    def set_live(self, live: list[list[int]]) -> None:
        """Tokens that were live already keep their values, new ones get values of their own."""
        self.live = [np.array(sorted(slots), dtype=np.int64) for slots in live]
        old, self.values = self.values, {}
        for home, slots in enumerate(self.live):
            for slot in slots.tolist():
                for layer in range(self.layers):
                    for which in range(2):
                        for unit in range(self.chain.finest):
                            key = (layer, which, home, slot, unit)
                            self.written += 1
                            self.values[key] = old.get(key, float(self.written))

    def held_by(self, worker: int) -> Units:
        """{(layer, 0 for K or 1 for V, local slot, place): value} of the live units on `worker`."""
        held = {}
        for (layer, which, home, slot, unit), value in self.values.items():
            holder, place = self.chain.place(self.degrees[home], home, unit)
            if holder == worker:
                held[layer, which, slot, place] = value
        return held


def fill(pool: torch.Tensor, held: Units) -> None:
    """Make `pool` [layers, 2, rows, finest, elements] hold these units, and NaN everywhere else."""
    pool.fill_(float("nan"))
    for where, value in held.items():
        pool[where] = value


def wrong_units(pool: torch.Tensor, held: Units) -> list[tuple[int, ...]]:
    """The places of `pool` whose elements are not all the expected value."""
    if not held:
        return []
    where = torch.tensor(list(held))
    expected = torch.tensor(list(held.values()), dtype=pool.dtype)
    same = (pool[tuple(where.T)] == expected[:, None]).all(dim=1)
    return [tuple(place) for place in where[~same].tolist()]
