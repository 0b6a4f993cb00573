"""A worker's KV pool seen as units, and the index vectors of an exchange."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from amoeba_sglang.control.transform.moves import UnitMove, find_cycles, units_per_slot, widen


class PoolShape(Protocol):
    """A worker's pool as far as it says which units move: rows of `finest` units each."""

    @property
    def finest(self) -> int: ...

    @property
    def rows(self) -> int:
        """Slots and padding; the row index is the local slot."""
        ...

    @property
    def unit_bytes(self) -> tuple[int, ...]:
        """Bytes of a unit of K and of V, the same in every layer."""
        ...


class UnitBuffers:
    """The K and V buffers of every layer of one worker's pool, as arrays of unit runs.

    `layers`: per layer (K, V), or one tensor [2, ...], each CPU, contiguous, [rows, ...] with rows
    = slots + padding and row bytes divisible by `finest`, the number of units of a row. The first
    row index is the local slot. Views of the same bytes: buffers stay valid as long as the memory
    behind the tensors does.
    """

    def __init__(self, layers: Sequence[Sequence[torch.Tensor]], finest: int) -> None:
        self.finest = finest
        self.rows = len(layers[0][0])
        self.unit_bytes = tuple(_row_bytes(tensor) // finest for tensor in layers[0])
        for tensor in (tensor for pair in layers for tensor in pair):
            assert tensor.is_contiguous(), tensor.shape
            assert len(tensor) == self.rows, tensor.shape
            assert _row_bytes(tensor) % finest == 0, (tensor.shape, finest)
        self._bytes = [
            tuple(tensor.detach().view(torch.uint8).view(-1).numpy() for tensor in pair)
            for pair in layers
        ]
        # Of the few widths there are. Not functools.cache: of a bound method it is a cycle, which
        # kept pools that nobody used any more until the next collection.
        self._known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def runs(self, layer: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """K and V of `layer`: 1-D, one opaque item per run of `width` units, finest/width to a row.

        numpy gathers and scatters opaque items with one memcpy each, about twice as fast as torch's
        index_select and index_copy_ of rows of this size.
        """
        if (layer, width) not in self._known:
            key, value = (
                data.view(np.dtype((np.void, width * size)))
                for data, size in zip(self._bytes[layer], self.unit_bytes, strict=True)
            )
            self._known[layer, width] = key, value
        return self._known[layer, width]


def _row_bytes(tensor: torch.Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()


@dataclass(frozen=True)
class RunIndex:
    """Runs that one exchange takes from `source` to `target`: positions in their
    `UnitBuffers.runs`.

    `source_runs`, `target_runs`: int64, equal length, not empty, without repeats.
    """

    source: int
    target: int
    source_runs: np.ndarray
    target_runs: np.ndarray

    def __len__(self) -> int:
        return len(self.source_runs)


class RunMoves:
    """The moves of a change for one set of live slots, cut into chunks of super-slots.

    `live`: per home worker of the block its live local slots, int64, ascending, without repeats.
    All workers build it from the same values and so agree on the chunks.
    """

    def __init__(
        self, moves: tuple[UnitMove, ...], live: Sequence[np.ndarray], finest: int, rows: int
    ) -> None:
        self.width, self._moves = widen(moves, finest)
        self.units_per_slot = units_per_slot(moves)
        self._places = finest // self.width
        self._live = [np.asarray(slots, dtype=np.int64) for slots in live]
        for slots in self._live:
            assert (np.diff(slots) > 0).all(), "live slots are not ascending"
            assert not len(slots) or slots[0] >= 0, "live slots outside of the pool"
            assert not len(slots) or slots[-1] < rows, "live slots outside of the pool"
        moved = np.zeros(rows, dtype=bool)
        for home in {move.home for move in self._moves}:
            moved[self._live[home]] = True
        self._super_slots = np.flatnonzero(moved)

    @property
    def super_slots(self) -> int:
        """How many super-slots have live units of homes that move."""
        return len(self._super_slots)

    def received_runs(self, worker: int) -> int:
        """How many runs come to `worker`, of K or of V of one layer."""
        return sum(len(self._live[move.home]) for move in self._moves if move.target == worker)

    def turns(
        self, worker: int, most_slots: int
    ) -> Iterator[tuple[tuple[UnitMove, ...], list[np.ndarray]]]:
        """What `worker` is to move when the workers of every cycle share its super-slots out.

        Yields a cycle of `find_cycles`, whose places and units count runs of `width` units, and
        the live slots by home worker of at most `most_slots` super-slots, some of them live there.
        No two turns of any workers touch the same place, so they need no order.
        """
        for number, cycle in enumerate(find_cycles(self._moves)):
            workers = sorted({move.source for move in cycle})
            if worker not in workers:
                continue
            # What is left over when parts are handed round should not go to the same one every
            # time.
            turn = (workers.index(worker) + number) % len(workers)
            size = min(most_slots, -(-self.super_slots // len(workers)))
            for part, slots in enumerate(self.slot_parts(max(1, size))):
                if part % len(workers) == turn and any(len(slots[move.home]) for move in cycle):
                    yield cycle, slots

    def slot_parts(self, size: int) -> Iterator[list[np.ndarray]]:
        """Live slots by home worker, of `size` super-slots after another."""
        for start in range(0, len(self._super_slots), size):
            part = self._super_slots[start : start + size]
            yield [
                live[np.searchsorted(live, part[0]) : np.searchsorted(live, part[-1], side="right")]
                for live in self._live
            ]

    def source_runs(self, move: UnitMove, slots: list[np.ndarray]) -> np.ndarray:
        """Where the runs of `move` are in the source's buffers, for one of the `slot_parts`."""
        return slots[move.home] * self._places + move.source_place

    def target_runs(self, move: UnitMove, slots: list[np.ndarray]) -> np.ndarray:
        """Where they go in the target's, in the same order."""
        return slots[move.home] * self._places + move.target_place

    def index_chunks(self, size: int) -> Iterator[list[RunIndex]]:
        """The runs that move, by (source, target), for each of the `slot_parts`."""
        pairs = sorted({(move.source, move.target) for move in self._moves})
        for slots in self.slot_parts(size):
            found = (self._index(pair, slots) for pair in pairs)
            yield [index for index in found if len(index)]

    def _index(self, pair: tuple[int, int], slots: list[np.ndarray]) -> RunIndex:
        moves = [move for move in self._moves if (move.source, move.target) == pair]
        return RunIndex(
            *pair,
            np.concatenate([self.source_runs(move, slots) for move in moves]),
            np.concatenate([self.target_runs(move, slots) for move in moves]),
        )
