"""Mirrors of the peers' `req_to_token` rows, kept by deltas (pure numpy).

A worker's `RowLedger` remembers what its peers know of its rows; every peer's `RowMirror` holds
those rows, as local slots of their home. A row's known prefix is valid only while the row is
append-only. Upstream breaks that in two ways, both visible in host state:
  * a row number is used again (retraction, a finished request): `req_generation` grows;
  * the tree deduplicates a live request's prefix and rewrites the row from the old
    `cache_protected_len` on (unified_radix_cache.py, checkpoint): `cache_protected_len` changes.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass
class _Sent:
    generation: int
    protected_len: int
    known: int


class RowLedger:
    """What the peers of one worker know of its rows."""

    def __init__(self) -> None:
        self._sent: dict[int, _Sent] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def advance(self, row: int, generation: int, protected_len: int, start: int, end: int) -> int:
        """Return the position from which the peers must be told this row again: they know the
        slots of all positions before it.

        `start`: first new position of this step, always sent. After the step they know [0, end).
        """
        sent = self._sent.get(row)
        if sent is None or sent.generation != generation:
            known = 0
        elif sent.protected_len != protected_len:
            known = min(sent.known, sent.protected_len, protected_len)
        else:
            known = sent.known
        known = min(known, start)
        self._sent[row] = _Sent(generation, protected_len, end)
        return known

    def forget_dead(self, rows_in_use: int, free_rows: Collection[int]) -> tuple[int, ...]:
        """Rows that peers may forget. Looks only when more rows are known than are in use."""
        if len(self._sent) <= rows_in_use:
            return ()
        dead = tuple(self._sent.keys() & set(free_rows))
        for row in dead:
            del self._sent[row]
        return dead

    def forget(self, row: int) -> None:
        """Tell the peers all of this row again: its slots have changed. They still hold it, so it
        still counts for `forget_dead`."""
        if row in self._sent:
            self._sent[row].known = 0

    def clear(self) -> None:
        self._sent.clear()


class RowMirror:
    """The rows of one worker as its peers know them; memory follows the live rows."""

    def __init__(self) -> None:
        self._rows: dict[int, np.ndarray] = {}

    def apply(self, row: int, known: int, slots: np.ndarray) -> None:
        """Set the row from its `known`-th slot on; int64."""
        count = known + len(slots)
        capacity = max(count + 64, count * 5 // 4)
        buffer = self._rows.get(row)
        # A short request that got the row number of a long one must not keep its memory.
        if buffer is None or len(buffer) < count or (known == 0 and len(buffer) > capacity):
            grown = np.empty(capacity, dtype=np.int64)
            if known:
                assert buffer is not None, f"row {row} sent from {known}, never seen before"
                grown[:known] = buffer[:known]
            self._rows[row] = buffer = grown
        buffer[known:count] = slots

    def slots(self, row: int, count: int) -> np.ndarray:
        """The first `count` slots of a row that has been told so far, int64."""
        return self._rows[row][:count]

    def forget(self, rows: Collection[int]) -> None:
        for row in rows:
            self._rows.pop(row, None)

    def clear(self) -> None:
        self._rows.clear()
