"""Which local slots of a worker are free, and which are live."""

from typing import Any

import numpy as np
import torch


def free_slots(allocator: Any) -> torch.Tensor:
    """Free local slots of upstream's PagedTokenToKVPoolAllocator, int64."""
    assert allocator.free_group is None, "frees are being deferred: not a safe point"
    return allocator.get_all_free_pages()


def live_slots(allocator: Any) -> np.ndarray:
    """Sorted local slots that somebody may read again, int64: the complement of the free list.

    A move clobbers dead units, so running, half-prefilled and tree-owned slots all count.
    """
    live = torch.ones(allocator.num_pages + 1, dtype=torch.bool)
    live[0] = False
    live[free_slots(allocator)] = False
    return live.nonzero().flatten().numpy()
