"""The record that every worker of an instance publishes before a joint step (pure numpy)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_HEADER = 9
_ROW = 4


@dataclass(frozen=True)
class Row:
    """One request's share of a joint step.

    `row` is its number in the home's `req_to_token`; the request has `seq_len` tokens after the
    step, the last `extend_len` of them new. `slots` are the home's local slots of positions
    [known, seq_len), int64; peers know the positions before.
    """

    row: int
    seq_len: int
    extend_len: int
    known: int
    slots: np.ndarray


@dataclass(frozen=True)
class StepRecord:
    """What one worker contributes to one joint step, and the header all must agree on.

    epoch: number of the transformation that made this instance. step: joint steps since then.
    degrees: hash of the per-layer degrees. first_rank: first rank of the instance.
    has_work: the worker has rows, or an order that the others must hear of.
    order: epoch of the transformation this worker is ready to perform, 0 for none.
    extend: the rows are (also) prefill rows. dead_rows: rows that peers may forget.
    """

    epoch: int
    step: int
    first_rank: int
    degrees: int
    has_work: bool
    order: int = 0
    extend: bool = False
    rows: tuple[Row, ...] = ()
    dead_rows: tuple[int, ...] = field(default=())

    @property
    def tokens(self) -> int:
        return sum(row.extend_len for row in self.rows)

    def encode(self) -> np.ndarray:
        """One int64 vector: header, rows, dead rows, slots."""
        header = [
            self.epoch,
            self.step,
            self.first_rank,
            self.degrees,
            self.has_work,
            self.order,
            self.extend,
            len(self.rows),
            len(self.dead_rows),
        ]
        words = [w for r in self.rows for w in (r.row, r.seq_len, r.extend_len, r.known)]
        head = np.array([*header, *words, *self.dead_rows], dtype=np.int64)
        return np.concatenate([head, *(r.slots for r in self.rows)])

    @classmethod
    def decode(cls, words: np.ndarray) -> StepRecord:
        """Inverse of `encode`; slot vectors are views of `words`."""
        epoch, step, first, degrees, work, order, extend, rows, dead = words[:_HEADER].tolist()
        at = _HEADER + rows * _ROW
        dead_rows = tuple(words[at : at + dead].tolist())
        at += dead
        parsed = []
        for row, seq_len, extend_len, known in (
            words[_HEADER : _HEADER + rows * _ROW].reshape(rows, _ROW).tolist()
        ):
            parsed.append(Row(row, seq_len, extend_len, known, words[at : at + seq_len - known]))
            at += seq_len - known
        assert at == len(words), f"record of {len(words)} words, parsed {at}"
        return cls(
            epoch, step, first, degrees, bool(work), order, bool(extend), tuple(parsed), dead_rows
        )


def require_agreement(records: list[StepRecord]) -> None:
    """All workers of an instance must be about to run the same step of the same layout.

    Compared before any collective, so that a mismatch is a message and never a hang.
    """
    headers = [(r.epoch, r.step, r.first_rank, r.degrees) for r in records]
    assert len(set(headers)) == 1, (
        f"workers disagree about the joint step (epoch, step, first rank, degrees): {headers}"
    )
