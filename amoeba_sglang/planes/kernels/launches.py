"""What a worker launches for its share of a change: addresses, super-slots and who is live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.kv.units import RunMoves

ALIGNMENT = 16
"""Bytes that a thread moves at once."""
MOST_SLOTS = 1 << 16
"""Super-slots of one launch; its table then has about a megabyte."""
_MOST_BYTES = 1 << 32
"""Of one launch in each tensor: its words are counted in 32 bits, with a sign."""


@dataclass(frozen=True)
class UnitAddresses:
    """One worker's pool as this process has it mapped.

    addresses: int64 [layers, 2], where the row of local slot 0 of K and of V begins. finest, rows,
    unit_bytes: as in `PoolShape`. Addresses and units are multiples of 16 bytes.
    """

    addresses: np.ndarray
    finest: int
    rows: int
    unit_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.addresses.dtype == np.int64, self.addresses.dtype
        assert self.addresses.shape[1:] == (len(self.unit_bytes),), self.addresses.shape
        assert not (self.addresses % ALIGNMENT).any(), "a pool is not aligned to 16 bytes"
        assert not any(size % ALIGNMENT for size in self.unit_bytes), self.unit_bytes

    @classmethod
    def of(cls, layers: Sequence[Sequence[Any]], finest: int) -> UnitAddresses:
        """Of the tensors (K, V) of every layer, each [rows, ...] and contiguous."""
        first = layers[0]
        assert all(tensor.is_contiguous() for pair in layers for tensor in pair)
        return cls(
            np.array([[tensor.data_ptr() for tensor in pair] for pair in layers], dtype=np.int64),
            finest=finest,
            rows=len(first[0]),
            unit_bytes=tuple(tensor[0].nbytes // finest for tensor in first),
        )

    def places(self, layers: Sequence[int], which: Sequence[int], place: int) -> np.ndarray:
        """Where unit `place` of super-slot 0 lies in K (0) or V (1) of the layers: int64 [n]."""
        offsets = place * np.array(self.unit_bytes, dtype=np.int64)
        return (self.addresses + offsets)[np.ix_(layers, which)].ravel()


@dataclass(frozen=True)
class Launch:
    """One cycle, for some super-slots of tensors that have units of one size.

    table: int64 [members * tensors + 2 * slots]: per member, in the order of `find_cycles`, where
    its run of super-slot 0 is in every tensor; the super-slots; and for each of these the members
    that are live there, bit by bit. run_bytes, row_bytes: of a run, and from one super-slot to the
    next.
    """

    table: np.ndarray
    members: int
    tensors: int
    slots: int
    run_bytes: int
    row_bytes: int


def plan_launches(
    pools: Sequence[UnitAddresses], worker: int, layers: Sequence[int], runs: RunMoves
) -> Iterator[Launch]:
    """The launches of `worker`'s share; those of all workers are in no order and move everything.

    `pools`: by worker index of the block, as `worker` has them mapped.
    """
    sizes = pools[worker].unit_bytes
    most_slots = min(MOST_SLOTS, _MOST_BYTES // (runs.width * max(sizes)))
    for cycle, slots in runs.turns(worker, most_slots):
        _require_rows(pools, cycle, slots)
        moved = np.unique(np.concatenate([slots[move.home] for move in cycle]))
        alive = np.zeros(len(moved), dtype=np.int64)
        for bit, move in enumerate(cycle):
            alive |= np.isin(moved, slots[move.home]).astype(np.int64) << bit
        for size in sorted(set(sizes)):
            which = [number for number, other in enumerate(sizes) if other == size]
            bases = [
                pools[move.source].places(layers, which, move.source_place * runs.width)
                for move in cycle
            ]
            yield Launch(
                np.concatenate([*bases, moved, alive]),
                members=len(cycle),
                tensors=len(layers) * len(which),
                slots=len(moved),
                run_bytes=runs.width * size,
                row_bytes=pools[worker].finest * size,
            )


def _require_rows(
    pools: Sequence[UnitAddresses], cycle: tuple[UnitMove, ...], slots: list[np.ndarray]
) -> None:
    """Live units are in pools that have their rows, and go to such."""
    assert len(cycle) < 64, "more members than bits"
    for move in cycle:
        least = min(pools[move.source].rows, pools[move.target].rows)
        assert not len(slots[move.home]) or slots[move.home][-1] < least, (
            "live slots outside of a pool"
        )
