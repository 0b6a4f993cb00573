"""Which slots each row of a batch attends to: worked out once per step, used by every layer.

A row with one query token (a decode row, or a one-token extend row of a joint step) joins a
`RowGroup`: rows of like length that one call serves. Any other row is a `Chunk` of its own. Where
the slots come from, a dense table of requests or one ragged vector per row, is settled here, so the
layers see no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# A group may carry this many padding slots, plus a share of its useful ones, before another call
# is cheaper.
_FREE_PADDING = 1024
_PADDING_SHARE = 4


@dataclass(frozen=True)
class RowSlots:
    """Slots of every row of a batch: row i's are `store[starts[i] : starts[i] + lengths[i]]`.

    store: [*] int32 or int64 slots. starts, lengths: per row; `lengths` counts the tokens of the
    sequence so far, this step's included.
    """

    store: torch.Tensor
    starts: list[int]
    lengths: list[int]

    @classmethod
    def from_table(
        cls, table: torch.Tensor, request_rows: list[int], lengths: list[int]
    ) -> RowSlots:
        """`table` is [requests, context], contiguous; row i of the batch is
        `table[request_rows[i]]`.
        """
        assert table.is_contiguous(), table.stride()
        return cls(table.view(-1), [row * table.shape[1] for row in request_rows], lengths)

    @classmethod
    def from_vectors(cls, vectors: list[torch.Tensor]) -> RowSlots:
        """`vectors[i]` is row i's whole slot vector, [length] int64."""
        lengths = [vector.numel() for vector in vectors]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        store = torch.cat(vectors) if vectors else torch.empty(0, dtype=torch.int64)
        return cls(store, starts, lengths)

    def padded(self, rows: list[int]) -> torch.Tensor:
        """Slots of `rows`, [rows * longest] int64; a shorter row repeats its last slot, whose
        contents are finite.
        """
        starts = torch.tensor([self.starts[row] for row in rows]).unsqueeze(1)
        last = torch.tensor([self.lengths[row] - 1 for row in rows]).unsqueeze(1)
        position = torch.arange(max(self.lengths[row] for row in rows)).unsqueeze(0)
        return self.store.index_select(0, (starts + torch.minimum(position, last)).flatten()).long()

    def of(self, row: int) -> torch.Tensor:
        """Slots of one row, [length] int64."""
        return self.store[self.starts[row] : self.starts[row] + self.lengths[row]].long()


@dataclass(frozen=True)
class RowGroup:
    """Rows of one query token each that one call serves.

    tokens: where they are in the batch's token dimension, [rows] int64, or None if they are the
    whole batch in order. slots: [rows * longest] int64. mask: [rows, 1, 1, longest] in the KV
    dtype, 0 or -inf, or None if none is shorter.
    """

    tokens: torch.Tensor | None
    slots: torch.Tensor
    mask: torch.Tensor | None
    rows: int
    longest: int


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of the batch: one row's next tokens after `prefix` cached ones; slots
    [prefix + n].
    """

    start: int
    stop: int
    prefix: int
    slots: torch.Tensor


@dataclass(frozen=True)
class AttentionPlan:
    tokens: int
    groups: tuple[RowGroup, ...]
    chunks: tuple[Chunk, ...]


def plan_attention(slots: RowSlots, queries: list[int], dtype: torch.dtype) -> AttentionPlan:
    """`queries[i]` is the number of tokens row i computes in this step; the batch holds them in row
    order.
    """
    assert len(queries) == len(slots.lengths), (len(queries), len(slots.lengths))
    chunks, single, token_of, token = [], [], {}, 0
    for row, count in enumerate(queries):
        prefix = slots.lengths[row] - count
        assert count >= 0 <= prefix, (row, count, slots.lengths[row])
        if count == 1:
            single.append(row)
            token_of[row] = token
        elif count > 1:
            chunks.append(Chunk(token, token + count, prefix, slots.of(row)))
        token += count
    groups = [_make_group(slots, rows, token_of, token, dtype) for rows in _split(slots, single)]
    return AttentionPlan(token, tuple(groups), tuple(chunks))


def _split(slots: RowSlots, rows: list[int]) -> list[list[int]]:
    """Cut `rows`, longest first, wherever padding would cost more than one more call."""
    lengths = slots.lengths
    groups: list[list[int]] = []
    padding = useful = 0
    for row in sorted(rows, key=lambda row: -lengths[row]):
        short = lengths[groups[-1][0]] - lengths[row] if groups else 0
        allowed = _FREE_PADDING + (useful + lengths[row]) // _PADDING_SHARE
        if not groups or padding + short > allowed:
            groups.append([])
            padding = useful = short = 0
        groups[-1].append(row)
        padding += short
        useful += lengths[row]
    return [sorted(group) for group in groups]


def _make_group(
    slots: RowSlots, rows: list[int], token_of: dict[int, int], total: int, dtype: torch.dtype
) -> RowGroup:
    lengths = torch.tensor([slots.lengths[row] for row in rows])
    longest = int(lengths.max())
    mask = None
    if int(lengths.min()) < longest:
        beyond = torch.arange(longest).unsqueeze(0) >= lengths.unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, float("-inf"))
        mask = mask[:, None, None, :]
    tokens = None if len(rows) == total else torch.tensor([token_of[row] for row in rows])
    return RowGroup(tokens, slots.padded(rows), mask, len(rows), longest)
