"""What joint steps gather on GPUs, through upstream's groups. Not yet run on a GPU."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


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
