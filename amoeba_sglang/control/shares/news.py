"""What a worker's step record says about slots."""

from dataclasses import dataclass, field

import numpy as np

NOBODY = 1 << 62
"""Since when nobody waits: later than any round."""
LIVE = 0
"""Since when a live request waits: earlier than any round."""


def no_slots() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class SlotNews:
    """Wishes of one worker of an instance, and slots that change hands now.

    wanted: slots that the anchor would lease from the first `lenders` workers of its instance, 0
    for all of them; or slots that a lender would have back. since: the round in which the request
    that they are for began to wait; the earlier one goes first. lent: local slots that this worker
    lends to the anchor from now on; returned: leases that the anchor gives back, by its ids;
    int64 [n]. moved_from, moved_to: the anchor's ids of slots whose KV all workers of the instance
    copy before they compute; int64 [n], no slot twice.
    """

    wanted: int = 0
    since: int = NOBODY
    lenders: int = 0
    lent: np.ndarray = field(default_factory=no_slots)
    returned: np.ndarray = field(default_factory=no_slots)
    moved_from: np.ndarray = field(default_factory=no_slots)
    moved_to: np.ndarray = field(default_factory=no_slots)
