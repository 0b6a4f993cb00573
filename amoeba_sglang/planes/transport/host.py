"""Group operations through shared memory of one host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport.base import TransportGroup
from amoeba_sglang.planes.transport.patience import Patience
from amoeba_sglang.planes.transport.rendezvous import Operation, Rendezvous, signature
from amoeba_sglang.planes.transport.segment import SharedSegment

_PAGE = 4096
_CACHED_SHAPES = 512
# Measured on 2 cores: from here on four ranks gain 0-35 % by summing one slice each and pay a
# second meeting for it; two ranks lose 5-25 % at every size.
_SHARED_SUM_BYTES = 256 << 10
_BARRIER = signature(Operation.BARRIER, 0)


class HostGroup(TransportGroup):
    """Ranks that are processes of one host; they read each other's data out of one segment.

    Every rank owns one slot of `capacity_bytes` in each of two buffers, which the operations use
    in turn. An operation is: write the own slot, meet once, read all slots. One meeting is enough:
    a rank writes to a buffer again two operations later, after the meeting of the operation in
    between, to which every peer came only after it had done reading. Memory: 2 x size x
    capacity_bytes. Tensors and records beyond the capacity go through in several rounds.
    """

    def __init__(
        self,
        segment: SharedSegment,
        rank: int,
        world_ranks: Sequence[int],
        capacity_bytes: int,
        patience: Patience,
    ) -> None:
        self.rank = rank
        self.size = len(world_ranks)
        self.timeout_s = patience.timeout_s
        self._capacity = capacity_bytes
        self._rendezvous = Rendezvous(segment.memory, rank, segment.pids, world_ranks, patience)
        self._meet = self._rendezvous.meet
        self._whole_sum_bytes = (
            capacity_bytes if self.size <= 2 else min(capacity_bytes, _SHARED_SUM_BYTES)
        )
        offset = _data_offset(self.size)
        # A tensor born in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            data = torch.frombuffer(segment.memory, dtype=torch.uint8, offset=offset)
            self._bytes = data.view(2, self.size, capacity_bytes)
        self._records = self._bytes.numpy().view(np.int64)
        self._turn = 0
        self._views: tuple[dict, dict] = ({}, {})

    @classmethod
    def create(
        cls,
        cpu_group: dist.ProcessGroup,
        capacity_bytes: int = 1 << 20,
        timeout_s: float = 300.0,
        freeze_s: float = 8.0,
        progress: np.ndarray | None = None,
    ) -> HostGroup:
        """Collective over the gloo group `cpu_group`, whose ranks become this group's.

        `capacity_bytes`: multiple of 4096, below 2**28. `freeze_s`: how long a peer may be stopped.
        `progress`: by world rank, counters of what the processes have done, in shared memory; None
        counts a whole wait as without progress. Raises TransportError.
        """
        assert 0 < capacity_bytes < 1 << 28, capacity_bytes
        assert capacity_bytes % _PAGE == 0, capacity_bytes
        world_ranks = dist.get_process_group_ranks(cpu_group)
        size = len(world_ranks)
        nbytes = _data_offset(size) + 2 * size * capacity_bytes
        segment = SharedSegment.create(cpu_group, nbytes)
        patience = Patience(timeout_s, freeze_s, progress)
        return cls(segment, dist.get_rank(cpu_group), world_ranks, capacity_bytes, patience)

    @property
    def phase(self) -> str:
        return self._rendezvous.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._rendezvous.phase = phase

    def barrier(self) -> None:
        self._meet(_BARRIER)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        nbytes = x.nbytes
        if nbytes > self._whole_sum_bytes:
            return self._all_reduce_large(x)
        slots = self._slots(x.dtype, x.shape)
        slots[self.rank].copy_(x)
        self._meet(signature(Operation.ALL_REDUCE, nbytes))
        # Rank order on every rank, so that all get the same bits.
        if self.size > 1:
            torch.add(slots[0], slots[1], out=x)
            for slot in slots[2:]:
                x.add_(slot)
        return x

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        if x.nbytes <= self._capacity:
            slots = self._slots(x.dtype, x.shape)
            slots[self.rank].copy_(x)
            self._meet(signature(Operation.ALL_GATHER, x.nbytes))
            return torch.cat(slots, dim)
        rows = [x.numel()] * self.size
        flat = self._gather_flat(x.reshape(-1), rows, Operation.ALL_GATHER)
        return torch.cat(flat.view(self.size, *x.shape).unbind(0), dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        assert len(rows) == self.size, (rows, self.size)
        assert rows[self.rank] == x.shape[0], (rows, x.shape)
        row = x.shape[1:].numel()
        counts = [count * row for count in rows]
        flat = self._gather_flat(x.reshape(-1), counts, Operation.ALL_GATHER_ROWS)
        return flat.view(sum(rows), *x.shape[1:])

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        assert record.dtype == np.int64, record.dtype
        assert record.ndim == 1, record.shape
        room = self._capacity // 8 - 1
        records = self._next_records()
        own = records[self.rank]
        own[0] = len(record)
        own[1 : 1 + min(len(record), room)] = record[:room]
        self._meet(signature(Operation.EXCHANGE, 0))
        lengths = records[:, 0].tolist()
        longest = max(lengths)
        if longest <= room:
            return [
                slot[1 : 1 + length].copy() for slot, length in zip(records, lengths, strict=True)
            ]
        parts = [
            [slot[1 : 1 + length].copy()] for slot, length in zip(records, lengths, strict=True)
        ]
        for start in range(room, longest, room + 1):
            stop = start + room + 1
            records = self._next_records()
            rest = record[start:stop]
            records[self.rank][: len(rest)] = rest
            self._meet(signature(Operation.EXCHANGE, 8 * start))
            for slot, length, part in zip(records, lengths, parts, strict=True):
                part.append(slot[: max(0, min(length, stop) - start)].copy())
        return [np.concatenate(part) for part in parts]

    def close(self) -> None:
        # The mapping and its descriptor go with the last view of it.
        self._rendezvous.close()
        self._views = ({}, {})
        self._bytes = self._records = None

    def _slots(self, dtype: torch.dtype, shape: torch.Size) -> tuple[torch.Tensor, ...]:
        """The next buffer's slots, one per rank, seen as tensors of this dtype and shape."""
        self._turn = turn = 1 - self._turn
        views = self._views[turn]
        slots = views.get((dtype, shape))
        if slots is None:
            if len(views) >= _CACHED_SHAPES:
                views.clear()
            nbytes = shape.numel() * dtype.itemsize
            with torch.inference_mode(False):
                slots = tuple(slot[:nbytes].view(dtype).view(shape) for slot in self._bytes[turn])
            views[dtype, shape] = slots
        return slots

    def _next_records(self) -> np.ndarray:
        self._turn = 1 - self._turn
        return self._records[self._turn]

    def _all_reduce_large(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1)
        for piece in flat.split(self._capacity // x.element_size()):
            if piece.nbytes > self._whole_sum_bytes:
                self._all_reduce_slices(piece)
            else:
                self.all_reduce(piece)
        if flat.data_ptr() != x.data_ptr():
            x.copy_(flat.view(x.shape))
        return x

    def _all_reduce_slices(self, x: torch.Tensor) -> None:
        """Sum one slice of the 1-D `x` on each rank, then copy the others' slices."""
        slots = self._slots(x.dtype, x.shape)
        slots[self.rank].copy_(x)
        code = signature(Operation.ALL_REDUCE, x.nbytes)
        self._meet(code)
        width = -(-x.numel() // self.size)
        targets = x.split(width)
        parts = [slot.split(width) for slot in slots]
        mine = targets[self.rank]
        torch.add(parts[0][self.rank], parts[1][self.rank], out=mine)
        for part in parts[2:]:
            mine.add_(part[self.rank])
        # Between the two meetings only this rank reads its slice of any slot.
        parts[self.rank][self.rank].copy_(mine)
        self._meet(code)
        for peer, target in enumerate(targets):
            if peer != self.rank:
                target.copy_(parts[peer][peer])

    def _gather_flat(
        self, x: torch.Tensor, counts: Sequence[int], operation: Operation
    ) -> torch.Tensor:
        """Concatenate 1-D tensors of counts[r] elements."""
        room = self._capacity // x.element_size()
        longest = max(counts)
        code = signature(operation, sum(counts) * x.element_size())
        if longest <= room:
            slots = self._slots(x.dtype, torch.Size((longest,)))
            slots[self.rank][: x.numel()] = x
            self._meet(code)
            return torch.cat([slot[:count] for slot, count in zip(slots, counts, strict=True)])
        gathered = x.new_empty(sum(counts))
        parts = gathered.split(list(counts))
        for start in range(0, longest, room):
            slots = self._slots(x.dtype, torch.Size((room,)))
            piece = x[start : start + room]
            slots[self.rank][: piece.numel()] = piece
            self._meet(code)
            for slot, part in zip(slots, parts, strict=True):
                target = part[start : start + room]
                target.copy_(slot[: target.numel()])
        return gathered


def _data_offset(size: int) -> int:
    return -(-Rendezvous.nbytes(size) // _PAGE) * _PAGE
