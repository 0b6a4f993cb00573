"""Slot arithmetic: which worker holds which unit of a slot's KV at every degree.

A slot holds one token, or with `--page-size` P the P tokens of a KV page, heads outermost, so that
its head shards are contiguous runs as those of one token are. Slots never change what they hold, so
nothing here depends on P.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from amoeba_sglang.errors import ConfigError

# Above all own and grown slots, and low enough for int32 tables of the locations of slots that hold
# as many tokens as they may.
FIRST_LEASED = 1 << 23
MOST_TOKENS = 128


@dataclass(frozen=True)
class DegreeChain:
    """Allowed TP degrees, a divisor chain that starts at 1, such as (1, 2, 4).

    The largest degree, `finest`, is also the number of units that a token's K (or V) heads are cut
    into. The index of a worker in its block has one digit per step of the chain (mixed radix, the
    digit of the first step is the lowest). `shard` reverses these digits: the result numbers both
    head shards and joint slots, and makes both nest, so that a unit which keeps its worker also
    keeps its address.

    Every method takes worker indices in the group or in any aligned block of it; blocks of degree d
    are aligned, so only the index modulo d matters for shards and slots.
    """

    degrees: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.degrees[:1] == (1,), self.degrees
        assert all(low < high and high % low == 0 for low, high in pairwise(self.degrees))

    @classmethod
    def parse(cls, text: str, flag: str) -> DegreeChain:
        """`"1,2,4"`, the value of `flag`; ConfigError for what is no divisor chain from 1."""
        try:
            degrees = tuple(int(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"{flag} {text}: not a list of integers like 1,2,4") from None
        if degrees[0] != 1:
            raise ConfigError(f"{flag} {text}: the first degree is {degrees[0]}, not 1")
        for low, high in pairwise(degrees):
            if high <= low or high % low:
                raise ConfigError(f"{flag} {text}: {high} is not a larger multiple of {low}")
        return cls(degrees)

    @property
    def finest(self) -> int:
        """Number of units of a token: the largest degree."""
        return self.degrees[-1]

    def shard(self, degree: int, worker: int) -> int:
        """c_d(i): the head shard (0..degree-1) that `worker` holds at `degree`."""
        shard = 0
        for low, high in self._steps(degree):
            shard = shard * (high // low) + worker // low % (high // low)
        return shard

    def index(self, degree: int, shard: int) -> int:
        """Inverse of `shard`: index in its block of the worker that holds `shard` at `degree`."""
        assert 0 <= shard < degree, (degree, shard)
        index = 0
        for low, high in reversed(self._steps(degree)):
            shard, digit = divmod(shard, high // low)
            index += digit * low
        return index

    def joint_slots(self, degree: int, worker: int, slots: np.ndarray) -> np.ndarray:
        """Slot numbers in the instance's pool of `worker`'s local `slots`; same shape and dtype."""
        return slots * degree + self.shard(degree, worker)

    def joint_slots_of_ids(
        self, degree: int, worker: int, ids: np.ndarray, size: int
    ) -> np.ndarray:
        """Joint slots of what a worker calls its slots; same shape and dtype.

        1..`size` are its own. The anchor calls the grown slots of its instance on from there, in
        their joint order, which begins at degree * (size + 1), and leased ones by `leased_ids`.
        """
        own = self.joint_slots(degree, worker, ids)
        above = np.where(
            # Finest joint slots nest: a super-slot of `finest` holds `degree` of this degree.
            ids >= FIRST_LEASED,
            (ids - FIRST_LEASED) * degree // self.finest,
            ids + (degree - 1) * (size + 1),
        )
        return np.where(ids > size, above, own)

    def leased_ids(self, worker: int, slots: np.ndarray) -> np.ndarray:
        """What an anchor calls the local slots of `worker` that it leases, at every degree."""
        return self.joint_slots(self.finest, worker, slots) + FIRST_LEASED

    def leased_from(self, worker: int, ids: np.ndarray) -> np.ndarray:
        """Which of the leased `ids` are slots of `worker`; bool, same shape."""
        return (ids - FIRST_LEASED) % self.finest == self.shard(self.finest, worker)

    def lent_slots(self, ids: np.ndarray) -> np.ndarray:
        """Local slots, at the worker that lends them, of leased `ids`."""
        return (ids - FIRST_LEASED) // self.finest

    def place(self, degree: int, worker: int, unit: int) -> tuple[int, int]:
        """Where unit `unit` (0..finest-1) of any token of home `worker` lives at the home's
        `degree`.

        Returns (worker, place): `place` (0..finest-1) is the position inside the token's
        super-slot, the `finest` units that the pool of that worker holds for local slot s, the same
        for every s.
        """
        assert 0 <= unit < self.finest, (self.degrees, unit)
        width = self.finest // degree
        holder = worker // degree * degree + self.index(degree, unit // width)
        return holder, self.shard(degree, worker) * width + unit % width

    def _steps(self, degree: int) -> list[tuple[int, int]]:
        assert degree in self.degrees, f"degree {degree} is not in the chain {self.degrees}"
        used = self.degrees[: self.degrees.index(degree) + 1]
        return list(pairwise(used))
