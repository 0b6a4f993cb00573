"""Group operations through torch.distributed: the reference, and the fallback across any link."""

import datetime
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport.base import PeerLostError, TransportGroup


class GlooGroup(TransportGroup):
    """The operations over a gloo ProcessGroup, which stays the caller's.

    It does not notice when ranks call different operations, and it cannot tell which peer is
    lost, nor whether it makes progress: PeerLostError then names all of them, when one wait has
    lasted `timeout_s`.
    """

    def __init__(self, cpu_group: dist.ProcessGroup, timeout_s: float = 300.0) -> None:
        self.rank = dist.get_rank(cpu_group)
        self.size = dist.get_world_size(cpu_group)
        self.timeout_s = timeout_s
        self._group = cpu_group
        self._timeout = datetime.timedelta(seconds=timeout_s)
        self._peers = [
            world_rank
            for rank, world_rank in enumerate(dist.get_process_group_ranks(cpu_group))
            if rank != self.rank
        ]

    def barrier(self) -> None:
        self._run("barrier", dist.barrier)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == 0:
            return x
        flat = x.contiguous()
        self._run("all_reduce", dist.all_reduce, flat)
        if flat.data_ptr() != x.data_ptr():
            x.copy_(flat)
        return x

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return torch.cat(self._gather("all_gather", x.contiguous()), dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        assert len(rows) == self.size, (rows, self.size)
        assert rows[self.rank] == x.shape[0], (rows, x.shape)
        padded = x.new_zeros(max(rows), *x.shape[1:])
        padded[: x.shape[0]] = x
        parts = self._gather("all_gather_rows", padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        assert record.dtype == np.int64, record.dtype
        assert record.ndim == 1, record.shape
        lengths = [int(length) for length in self._gather("exchange", torch.tensor([len(record)]))]
        padded = torch.zeros(max(lengths), dtype=torch.int64)
        padded[: len(record)] = torch.from_numpy(record)
        parts = self._gather("exchange", padded)
        return [part[:length].numpy() for part, length in zip(parts, lengths, strict=True)]

    def close(self) -> None:
        """Nothing to release."""

    def _gather(self, operation: str, x: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        if x.numel():
            self._run(operation, dist.all_gather, parts, x)
        return parts

    def _run(self, operation: str, call: Callable[..., dist.Work], *args: object) -> None:
        start = time.monotonic()
        try:
            call(*args, group=self._group, async_op=True).wait(self._timeout)
        except RuntimeError as error:
            waited = time.monotonic() - start
            reason = f"are silent or dead, at least one of them ({error})"
            place = f"{operation} of {self.phase}" if self.phase else operation
            raise PeerLostError(self._peers, place, waited, reason) from error
