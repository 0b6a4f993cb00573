"""The record that every worker of an instance publishes before a joint step (pure numpy)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.shares.news import SlotNews

_HEADER = 16
_ROW = 5


@dataclass(frozen=True)
class Row:
    """One request's share of a joint step.

    `row` is its number in the home's `req_to_token`; the request has `seq_len` tokens after the
    step, the last `extend_len` of them new. `slots` are the home's local slots of the row from its
    `known`-th on, int64; peers know those before.
    """

    row: int
    seq_len: int
    extend_len: int
    known: int
    slots: np.ndarray


@dataclass(frozen=True)
class StepRecord:
    """What one worker contributes to one joint step, and the header all must agree on.

    epoch: number of the transformation that made this instance or is making it. step: joint steps
    since then.
    boundary: b of the transformation that is under way, else -1; with the epoch it says the degree
    of every layer on every worker. first_rank: first of the ranks that are in step.
    has_work: the worker has rows, or an order that the others must hear of.
    order: epoch of the transformation this worker is ready to perform, 0 for none.
    extend: the rows are (also) prefill rows. scores_prompts: logits of more than the last token of
    each row are wanted. dead_rows: rows that peers may forget.
    slots: what the worker says about the slots of its instance.
    """

    epoch: int
    step: int
    first_rank: int
    boundary: int
    has_work: bool
    order: int = 0
    extend: bool = False
    scores_prompts: bool = False
    rows: tuple[Row, ...] = ()
    dead_rows: tuple[int, ...] = ()
    slots: SlotNews = SlotNews()

    @property
    def tokens(self) -> int:
        return sum(row.extend_len for row in self.rows)

    def encode(self) -> np.ndarray:
        """One int64 vector: header, rows, dead rows, slots of the rows, lent, returned, moved."""
        news = self.slots
        header = [
            self.epoch,
            self.step,
            self.first_rank,
            self.boundary,
            self.has_work,
            self.order,
            self.extend,
            self.scores_prompts,
            len(self.rows),
            len(self.dead_rows),
            news.wanted,
            news.since,
            news.lenders,
            len(news.lent),
            len(news.returned),
            len(news.moved_from),
        ]
        words = [
            w for r in self.rows for w in (r.row, r.seq_len, r.extend_len, r.known, len(r.slots))
        ]
        head = np.array([*header, *words, *self.dead_rows], dtype=np.int64)
        slots = (r.slots for r in self.rows)
        changes = (news.lent, news.returned, news.moved_from, news.moved_to)
        return np.concatenate([head, *slots, *changes])

    @classmethod
    def decode(cls, words: np.ndarray) -> StepRecord:
        """Inverse of `encode`; slot vectors are views of `words`."""
        (
            epoch, step, first, boundary, work, order, extend, scores, rows, dead,
            wanted, since, lenders, lent, returned, moved,
        ) = words[:_HEADER].tolist()  # fmt: skip
        at = _HEADER + rows * _ROW
        dead_rows = tuple(words[at : at + dead].tolist())
        at += dead
        parsed = []
        for row, seq_len, extend_len, known, count in (
            words[_HEADER : _HEADER + rows * _ROW].reshape(rows, _ROW).tolist()
        ):
            parsed.append(Row(row, seq_len, extend_len, known, words[at : at + count]))
            at += count
        ends = np.cumsum([at, lent, returned, moved, moved])
        assert ends[-1] == len(words), f"record of {len(words)} words, parsed {ends[-1]}"
        changes = (words[start:end] for start, end in itertools.pairwise(ends.tolist()))
        return cls(
            epoch=epoch,
            step=step,
            first_rank=first,
            boundary=boundary,
            has_work=bool(work),
            order=order,
            extend=bool(extend),
            scores_prompts=bool(scores),
            rows=tuple(parsed),
            dead_rows=dead_rows,
            slots=SlotNews(wanted, since, lenders, *changes),
        )


def require_agreement(records: list[StepRecord]) -> None:
    """All workers of an instance must be about to run the same step of the same layout.

    Compared before any collective, so that a mismatch is a message and never a hang.
    """
    headers = [(r.epoch, r.step, r.first_rank, r.boundary) for r in records]
    assert len(set(headers)) == 1, (
        f"workers disagree about the joint step (epoch, step, first rank, boundary): {headers}"
    )


def work_of_records(records: Sequence[StepRecord]) -> StepWork:
    """What the workers of these records compute together."""
    return StepWork.of_rows((r.seq_len, r.extend_len) for one in records for r in one.rows)
