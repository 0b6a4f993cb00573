"""A request's row of KV locations, seen as the slots that its tokens lie in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from amoeba_sglang.control.layout.locations import locations_at, slots_of


class KVRow:
    """The tokens of a request that the tree does not own.

    `table`: `req_to_token`, [rows, positions]; `forget(row)`: peers must be told this row again.
    """

    def __init__(
        self, table: torch.Tensor, req: Any, page: int, forget: Callable[[int], None]
    ) -> None:
        self._number, self._page, self._forget = req.kv.req_pool_idx, page, forget
        self._locations = table[self._number, req.kv.cache_protected_len : req.kv.kv_allocated_len]

    def slots(self) -> np.ndarray:
        """Their slots in order, int64."""
        return row_slots(self._locations, self._page)

    def replace(self, numbers: np.ndarray, targets: np.ndarray) -> None:
        """Let the `numbers`-th of them be `targets` from now on; int64 each."""
        replace_slots(self._locations, numbers, targets, self._page)
        self._forget(self._number)


def row_slots(locations: torch.Tensor, page: int) -> np.ndarray:
    """The slots of tokens from the start of a slot on, int64."""
    return slots_of(locations.cpu().numpy(), page)


def replace_slots(
    locations: torch.Tensor, numbers: np.ndarray, targets: np.ndarray, page: int
) -> None:
    """Let the `numbers`-th slots of these locations be `targets`, in place."""
    slots = row_slots(locations, page)
    slots[numbers] = targets
    locations.copy_(torch.from_numpy(locations_at(slots, 0, len(locations), page)))
