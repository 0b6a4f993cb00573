"""A request's row of KV locations, seen as the slots that its tokens lie in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from amoeba_sglang.control.layout.locations import locations_at, slots_of


class KVRow:
    """The tokens of a request that the tree does not own.

    `rows`: the scheduler's ReqToTokenPool; `forget(row)`: peers must be told this row again.
    """

    def __init__(self, rows: Any, req: Any, page: int, forget: Callable[[int], None]) -> None:
        self._rows, self._number, self._page, self._forget = rows, req.kv.req_pool_idx, page, forget
        self._tokens = slice(req.kv.cache_protected_len, req.kv.kv_allocated_len)

    @property
    def _locations(self) -> torch.Tensor:
        return self._rows.req_to_token[self._number, self._tokens]

    def slots(self) -> np.ndarray:
        """Their slots in order, int64."""
        return row_slots(self._locations, self._page)

    def replace(self, numbers: np.ndarray, targets: np.ndarray) -> None:
        """Let the `numbers`-th of them be `targets` from now on; int64 each."""
        locations = self._locations.clone()
        replace_slots(locations, numbers, targets, self._page)
        self._rows.write((self._number, self._tokens), locations)
        self._forget(self._number)


def row_slots(locations: torch.Tensor, page: int) -> np.ndarray:
    """The slots of tokens from the start of a slot on, int64."""
    return slots_of(locations.numpy(), page)


def replace_slots(
    locations: torch.Tensor, numbers: np.ndarray, targets: np.ndarray, page: int
) -> None:
    """Let the `numbers`-th slots of these locations be `targets`, in place."""
    slots = row_slots(locations, page)
    slots[numbers] = targets
    locations.copy_(torch.from_numpy(locations_at(slots, 0, len(locations), page)))
