"""The boundary b of a transformation: which layers move in a step, last layers first on a merge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Boundary:
    """Layers [0, b) are at the lower degree, [b, layers) at the higher.

    `falls`: layers go to the higher degree, from the last on, until b is 0; else they go to the
    lower one, from the first on, until b is `layers`.
    """

    b: int
    layers: int
    falls: bool

    def __post_init__(self) -> None:
        assert 0 <= self.b <= self.layers, (self.b, self.layers)

    @classmethod
    def at_start(cls, layers: int, falls: bool) -> Boundary:
        return cls(layers if falls else 0, layers, falls)

    @property
    def finished(self) -> bool:
        return not self.left

    @property
    def left(self) -> int:
        """Layers that have yet to move."""
        return self.b if self.falls else self.layers - self.b

    def next_layers(self, count: int) -> range:
        """The up to `count` layers that move next."""
        assert count > 0, count
        if self.falls:
            return range(max(0, self.b - count), self.b)
        return range(self.b, min(self.layers, self.b + count))

    def after(self, moved: range) -> Boundary:
        """Where b is once `next_layers` have moved."""
        return Boundary(moved.start if self.falls else moved.stop, self.layers, self.falls)

    def reversed(self) -> Boundary:
        """The way back from here."""
        return Boundary(self.b, self.layers, not self.falls)
