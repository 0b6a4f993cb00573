"""Slots of an anchor beyond its worker's own: grown ones and leases."""

from collections.abc import Callable

import numpy as np

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from amoeba_sglang.control.shares.news import no_slots


class ExtraSlots:
    """Grown slots are own_slots + 1 .. own_slots + grown, in memory that a merge freed from
    weights; leased ones are FIRST_LEASED and above, a peer's own.

    Each is in use, free, or free but withheld, since an order is about to take it away. Grown ones
    are given first, so that leases are free to go home.
    """

    def __init__(self, own_slots: int) -> None:
        self._own_slots, self.grown = own_slots, 0
        self.leased = no_slots()
        self._stays: Callable[[np.ndarray], np.ndarray] | None = None
        self._free_grown = self.free_leased = self.withheld = no_slots()

    def clear(self) -> None:
        """Free every slot."""
        self._free_grown = self.free_leased = self.withheld = no_slots()
        self.put(np.concatenate([self._grown_ids(), self.leased]))

    @property
    def free(self) -> np.ndarray:
        """Those that requests can have, in the order in which they are given; int64."""
        return np.concatenate([self._free_grown, self.free_leased])

    @property
    def free_count(self) -> int:
        return len(self._free_grown) + len(self.free_leased)

    @property
    def count(self) -> int:
        return self.grown + len(self.leased)

    @property
    def in_use(self) -> int:
        return self.count - self.free_count - len(self.withheld)

    def room(self, own_room: int, short_rest: int, long_rest: int = 0) -> int:
        """Slots that are left for long requests of `own_room` own ones and those free here.

        short_rest: own slots that are for others; long_rest: slots that long ones were promised.
        """
        extra = self.free_count - long_rest
        return max(0, own_room - short_rest + min(0, extra)) + max(0, extra)

    def grow(self, count: int) -> None:
        """Have `count` grown slots from now on; none may be in use."""
        withheld = self.withheld[self.withheld >= FIRST_LEASED]
        idle = len(self._free_grown) + len(self.withheld) - len(withheld)
        assert idle == self.grown, f"{self.grown - idle} grown slots are in use"
        assert self._own_slots + count < FIRST_LEASED, (self._own_slots, count)
        self.grown, self._free_grown, self.withheld = count, no_slots(), withheld
        self.put(self._grown_ids())

    def lease(self, ids: np.ndarray) -> None:
        """Have slots that peers have lent."""
        self.leased = np.concatenate([self.leased, ids])
        self.put(ids)

    def end_leases(self, ids: np.ndarray) -> None:
        """Give up leases, none of which may be in use."""
        idle = np.concatenate([self.free_leased, self.withheld])
        in_use = len(ids) - int(np.isin(ids, idle).sum())
        assert not in_use, f"{in_use} leased slots are in use"
        for name in ("leased", "free_leased", "withheld"):
            kept = getattr(self, name)
            setattr(self, name, kept[~np.isin(kept, ids)])

    def take(self, count: int) -> np.ndarray:
        """The first `count` of the free ones, of which there are so many."""
        assert count <= self.free_count, (count, self.free_count)
        grown = min(count, len(self._free_grown))
        slots = np.concatenate([self._free_grown[:grown], self.free_leased[: count - grown]])
        self._free_grown = self._free_grown[grown:]
        self.free_leased = self.free_leased[count - grown :]
        return slots

    def put(self, ids: np.ndarray) -> None:
        """These are not in use any more."""
        if self._stays is not None and len(ids):
            stays = self._stays(ids)
            self.withheld = np.concatenate([self.withheld, ids[~stays]])
            ids = ids[stays]
        leased = ids >= FIRST_LEASED
        self._free_grown = np.concatenate([ids[~leased], self._free_grown])
        self.free_leased = np.concatenate([ids[leased], self.free_leased])

    def close(self, stays: Callable[[np.ndarray], np.ndarray]) -> None:
        """Give only what `stays` marks with True from now on, until `open`."""
        free = self.free
        self._stays, self._free_grown, self.free_leased = stays, no_slots(), no_slots()
        self.put(free)

    def open(self) -> None:
        """Inverse of `close`."""
        self._stays = None
        withheld, self.withheld = self.withheld, no_slots()
        self.put(withheld)

    @property
    def closed(self) -> bool:
        return self._stays is not None

    def _grown_ids(self) -> np.ndarray:
        return np.arange(self._own_slots + 1, self._own_slots + self.grown + 1, dtype=np.int64)
