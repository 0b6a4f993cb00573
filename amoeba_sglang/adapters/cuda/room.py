"""Memory for what recorded steps tell attention of their rows' slots."""

import torch


class Room:
    """One piece for the steps of all sizes, of which one is replayed at a time and filled before.

    Rows times the longest context it has for the largest: at 128k tokens and pages of one some
    hundred MiB.
    """

    def __init__(self) -> None:
        self._whole: torch.Tensor | None = None

    def take(self, count: int, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[count] of it, on the device of `like`; who asks for most should come first."""
        if self._whole is None or len(self._whole) < count:
            self._whole = like.new_zeros(count, dtype=dtype)
        return self._whole[:count]
