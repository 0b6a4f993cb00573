"""Transports as workers on the REFERENCE device have them."""

from collections.abc import Sequence

import numpy as np
import torch

from amoeba_sglang.planes.reference.graphs import whole
from amoeba_sglang.planes.reference.streams import Streams
from amoeba_sglang.planes.transport.base import TransportGroup


class Wrapped(TransportGroup):
    """Does what another group does."""

    def __init__(self, group: TransportGroup) -> None:
        self._group = group
        self.rank, self.size, self.timeout_s = group.rank, group.size, group.timeout_s

    @property
    def phase(self) -> str:
        return self._group.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._group.phase = phase

    def barrier(self) -> None:
        self._group.barrier()

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        return self._group.exchange(record)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return self._group.all_reduce(x)

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return self._group.all_gather(x, dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return self._group.all_gather_rows(x, rows)

    def close(self) -> None:
        self._group.close()


class Watched(Wrapped):
    """Its messages say to peers that memory is theirs now: a Race if something of the current
    stream still runs then."""

    def __init__(self, group: TransportGroup, streams: Streams) -> None:
        super().__init__(group)
        self._streams = streams

    def barrier(self) -> None:
        self._streams.require_told("a barrier with peers")
        super().barrier()

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        self._streams.require_told("a message to peers")
        return super().exchange(record)


class Launched(Wrapped):
    """Its collectives are kernels, as on a GPU, which a graph records."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return whole(super().all_reduce)(x)

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return whole(super().all_gather)(x, dim)
