"""Where a worker sits in its instance, and what it needs of its own pool."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from amoeba_sglang.control.layout.slots import DegreeChain


class OwnSlots(Protocol):
    """A worker's own slots, 1 and above, int64."""

    def room(self) -> int:
        """How many are free, or would be if the prefix cache gave all up that nobody uses."""
        ...

    def take(self, count: int) -> np.ndarray:
        """That many of them, of which there are so many; the prefix cache gives up the rest."""
        ...

    def put(self, slots: np.ndarray) -> None:
        """These are free again."""
        ...


@dataclass(frozen=True)
class Seat:
    """`worker`: index in its group. The first worker of an instance is the anchor, at place 0."""

    chain: DegreeChain
    degree: int
    worker: int

    @property
    def anchor(self) -> int:
        return self.worker - self.place

    @property
    def place(self) -> int:
        return self.worker % self.degree

    def ids_of(self, place: int, slots: np.ndarray) -> np.ndarray:
        """What the anchor calls the local `slots` of the worker at `place`."""
        return self.chain.leased_ids(self.anchor + place, slots)

    def is_of(self, place: int, ids: np.ndarray) -> np.ndarray:
        """Which leases are slots of the worker at `place`; bool."""
        return self.chain.leased_from(self.anchor + place, ids)
