"""What the KV of every slot must be: the hash of the prefix that made it."""

from typing import Any

import numpy as np

from amoeba_sglang.control.layout.slots import FIRST_LEASED, DegreeChain

# Of a slot whose KV a move has clobbered, or that nobody has written.
NOTHING = -1


class Shadow:
    """The KV of all pools of a world, token by token.

    Workers name slots as their allocators do: own and grown ones by number, leased ones by the ids
    of a DegreeChain. A token of `slots` numbers up to `size` (own and grown) of each of `workers`.
    """

    def __init__(self, workers: int, group: int, chain: DegreeChain, size: int, page: int) -> None:
        self._chain, self._group, self._page = chain, group, page
        self._pools = [np.full((size + 1) * page, NOTHING) for _ in range(workers)]

    def read(self, rank: int, locations: np.ndarray) -> np.ndarray:
        """int64 of the tokens at `locations` (slot * page + offset) of a worker's row."""
        leased = locations >= FIRST_LEASED * self._page
        if not leased.any():
            return self._pools[rank][locations]
        homes, at = self._where(rank, locations, leased)
        return np.array([self._pools[home][i] for home, i in zip(homes, at, strict=True)])

    def write(self, rank: int, locations: np.ndarray, values: np.ndarray) -> None:
        homes, at = self._where(rank, locations, locations >= FIRST_LEASED * self._page)
        for home, i, value in zip(homes, at, values, strict=True):
            self._pools[home][i] = value

    def copy(self, rank: int, source: np.ndarray, target: np.ndarray) -> None:
        """Copy whole slots, named as `rank` does."""
        offsets = np.arange(self._page)
        taken, put = (
            (slots[:, None] * self._page + offsets).reshape(-1) for slots in (source, target)
        )
        self.write(rank, put, self.read(rank, taken))

    def clobber(self, rank: int, live: np.ndarray, own_slots: int) -> None:
        """A move of layers keeps the `live` own slots only."""
        pool = self._pools[rank][: (own_slots + 1) * self._page].reshape(-1, self._page)
        dead = np.ones(own_slots + 1, dtype=bool)
        dead[live] = False
        pool[dead] = NOTHING

    def _where(
        self, rank: int, locations: np.ndarray, leased: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By location, the worker in whose pool it is, and where there."""
        homes, at = np.full(len(locations), rank), locations.copy()
        slots, offsets = np.divmod(locations, self._page)
        first = rank // self._group * self._group
        for index in range(self._group):
            mine = leased & self._chain.leased_from(index, slots)
            homes[mine] = first + index
        at[leased] = self._chain.lent_slots(slots[leased]) * self._page + offsets[leased]
        return homes, at


def content_of(req: Any) -> np.ndarray:
    """int64 hash of the prefix that ends at each position of a request; its outputs are known
    beforehand, since an emulated token depends on its position alone."""
    known = getattr(req, "_world_content", None)
    length = len(req.origin_input_ids) + (req.sampling_params.max_new_tokens or 0) + 2
    if known is None or len(known) < length:
        tokens = list(req.origin_input_ids)
        tokens += [output_token(position) for position in range(len(tokens), length)]
        known, value = np.empty(length, dtype=np.int64), 17
        for position, token in enumerate(tokens):
            known[position] = value = (value * 1_000_003 + token) & 0x7FFF_FFFF_FFFF
        req._world_content = known
    return known


def output_token(position: int) -> int:
    """What an EmulatedSampler puts at that position of any request."""
    return 1000 + (position - 1) % 64
