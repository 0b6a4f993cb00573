"""What joint steps gather on GPUs: through upstream's groups, or through the host where workers
share one. Not yet run on a GPU."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from amoeba_sglang.planes.transport.base import TransportGroup


class GroupCollectives:
    """Collectives over the ranks of upstream's GroupCoordinator, on its device."""

    def __init__(self, group: Any) -> None:
        self.rank: int = group.rank_in_group
        self._group = group

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return self._group.all_gather(x, dim)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See TransportGroup. All ranks send as many rows as the longest has: what is gathered are
        token ids and last hidden states, and shapes that differ would need a copy for each rank."""
        most = max(rows)
        padded = F.pad(x, [0, 0] * (x.dim() - 1) + [0, most - len(x)])
        parts = self._group.all_gather(padded, 0).split(most)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


class StagedCollectives:
    """Collectives of workers on one GPU, where NCCL has none: every tensor goes to the host and
    back, and the host waits for it. In the place of one of upstream's communicators, too."""

    disabled = False

    def __init__(self, group: TransportGroup) -> None:
        self.rank, self._host = group.rank, group

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` over the ranks, in place."""
        return x.copy_(self._host.all_reduce(x.cpu()))

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return self._host.all_gather(x.cpu(), dim).to(x.device)

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return self._host.all_gather_rows(x.cpu(), rows).to(x.device)
