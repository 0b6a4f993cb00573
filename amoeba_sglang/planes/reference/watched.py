"""A transport whose messages say to peers that memory of the REFERENCE device is theirs now."""

from collections.abc import Sequence

import numpy as np
import torch

from amoeba_sglang.planes.reference.streams import Streams
from amoeba_sglang.planes.transport.base import TransportGroup


class Watched(TransportGroup):
    """Raises a Race if something of the current stream still runs when peers are told."""

    def __init__(self, group: TransportGroup, streams: Streams) -> None:
        self._group, self._streams = group, streams
        self.rank, self.size, self.timeout_s = group.rank, group.size, group.timeout_s

    @property
    def phase(self) -> str:
        return self._group.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._group.phase = phase

    def barrier(self) -> None:
        self._streams.require_told("a barrier with peers")
        self._group.barrier()

    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        self._streams.require_told("a message to peers")
        return self._group.exchange(record)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return self._group.all_reduce(x)

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return self._group.all_gather(x, dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return self._group.all_gather_rows(x, rows)

    def close(self) -> None:
        self._group.close()
