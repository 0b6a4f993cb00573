"""Which slots each row of a batch attends to: worked out once per step, used by every layer.

A slot holds `page` tokens of one row, the n-th slot of a row those from position n * page on; a
token's location is slot * page + offset. A row with one query token (a decode row, or a one-token
extend row of a joint step) joins a `RowGroup`: rows of like length that one call serves. Any other
row is a `Chunk` of its own. Where the slots come from, a dense table of requests or one ragged
vector per row, is settled here, so the layers see no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from amoeba_sglang.control.layout.locations import slots_filled

# A group may carry this many padding slots, plus a share of its useful ones, before another call
# is cheaper.
_FREE_PADDING = 1024
_PADDING_SHARE = 4


@dataclass(frozen=True)
class RowSlots:
    """Slots of every row of a batch: row i's n-th is `store[starts[i] + n * step] // step`.

    store: [*] int32 or int64. starts, lengths: per row; `lengths` counts the tokens of the sequence
    so far, this step's included. page: tokens of a slot. step: `page` where `store` holds
    locations, 1 where it holds slots.
    """

    store: torch.Tensor
    starts: list[int]
    lengths: list[int]
    page: int
    step: int

    @classmethod
    def from_table(
        cls, table: torch.Tensor, request_rows: list[int], lengths: list[int], page: int
    ) -> RowSlots:
        """`table` is [requests, context] locations, contiguous; row i of the batch is
        `table[request_rows[i]]`.
        """
        assert table.is_contiguous(), table.stride()
        starts = [row * table.shape[1] for row in request_rows]
        return cls(table.view(-1), starts, lengths, page, page)

    @classmethod
    def from_vectors(cls, vectors: list[torch.Tensor], lengths: list[int], page: int) -> RowSlots:
        """`vectors[i]` is row i's slots, int64, as many as its tokens fill."""
        counts = [vector.numel() for vector in vectors]
        assert counts == [slots_filled(n, page) for n in lengths], (counts, lengths, page)
        starts = [sum(counts[:i]) for i in range(len(counts))]
        store = torch.cat(vectors) if vectors else torch.empty(0, dtype=torch.int64)
        return cls(store, starts, lengths, page, 1)

    def padded(self, rows: list[int]) -> SlotRuns:
        """Slots of `rows`, [rows, most]; a shorter row repeats its last slot, whose contents are
        finite.
        """
        starts = torch.tensor([self.starts[row] for row in rows]).unsqueeze(1)
        counts = [slots_filled(self.lengths[row], self.page) for row in rows]
        last = torch.tensor(counts).unsqueeze(1) - 1
        number = torch.minimum(torch.arange(max(counts)).unsqueeze(0), last)
        picked = self.store.index_select(0, (starts + number * self.step).flatten()).long()
        return SlotRuns((picked // self.step).view(len(rows), -1))

    def of(self, row: int) -> SlotRuns:
        """Slots of one row, [1, slots]."""
        return self.padded([row])


class SlotRuns:
    """Slots [rows, n] int64 of rows, as the runs of their KV heads in a pool buffer.

    A head's tokens of one slot lie together, [page, D]: what is gathered by these runs is already
    in the order that attention reads, [rows, heads, n * page, D].
    """

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self._by_heads: dict[int, torch.Tensor] = {}

    def of_heads(self, heads: int) -> torch.Tensor:
        """[rows * heads * n] positions in a buffer viewed as [slots * heads, page * D]."""
        if heads not in self._by_heads:
            first, head = self.slots.unsqueeze(1) * heads, torch.arange(heads).view(-1, 1)
            self._by_heads[heads] = (first + head).flatten()
        return self._by_heads[heads]

    def gather(self, buffer: torch.Tensor) -> torch.Tensor:
        """buffer [slots, heads, page, D], or [slots, heads, D] -> [rows, heads, n * page, D]."""
        rows, heads = len(self.slots), buffer.shape[1]
        runs = buffer.view(buffer.shape[0] * heads, -1)
        return runs.index_select(0, self.of_heads(heads)).view(rows, heads, -1, buffer.shape[-1])


@dataclass(frozen=True)
class RowGroup:
    """Rows of one query token each that one call serves.

    tokens: where they are in the batch's token dimension, [rows] int64, or None if they are the
    whole batch in order. slots: of the rows, as many as the longest has. mask: [rows, 1, 1,
    longest] in the KV dtype, 0 or -inf, or None if none is shorter.
    """

    tokens: torch.Tensor | None
    slots: SlotRuns
    mask: torch.Tensor | None
    longest: int


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of the batch: one row's next tokens after `prefix` cached ones; the
    slots of all of them.
    """

    start: int
    stop: int
    prefix: int
    slots: SlotRuns


class NewTokens:
    """Where the keys and values of a batch's tokens go.

    locations: of the tokens, [tokens] int64. A slot is cleared when its first token comes: nobody
    may read what it held, but a masked row of attention multiplies it by zero, so that it must be
    finite.
    """

    def __init__(self, locations: torch.Tensor, page: int) -> None:
        self.page = page
        self.slots, self.offsets = locations // page, locations % page
        begun = self.slots[self.offsets == 0] if page > 1 else self.slots[:0]
        self.begun = SlotRuns(begun.unsqueeze(0))
        self._by_heads: dict[int, torch.Tensor] = {}

    def store(self, buffer: torch.Tensor, values: torch.Tensor) -> None:
        """values [tokens, heads, D] into buffer [slots, heads, page, D], or [slots, heads, D]."""
        heads, size = values.shape[1:]
        if self.begun.slots.numel():
            runs = buffer.view(-1, self.page * size)
            runs.index_fill_(0, self.begun.of_heads(heads), 0)
        if heads not in self._by_heads:
            runs = self.slots.unsqueeze(1) * heads + torch.arange(heads)
            self._by_heads[heads] = (runs * self.page + self.offsets.unsqueeze(1)).flatten()
        buffer.view(-1, size).index_copy_(0, self._by_heads[heads], values.reshape(-1, size))


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
    return RowGroup(tokens, slots.padded(rows), mask, longest)
