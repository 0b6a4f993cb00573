"""What a transport offers to the ranks of one block, and how it fails."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from amoeba_sglang.errors import AmoebaError


class TransportError(AmoebaError):
    """A group that cannot work: it could not be built, or its ranks disagree about an operation."""


class PeerLostError(TransportError):
    """Peers died, left, are stopped or do nothing. The group is unusable afterwards.

    `ranks`: world ranks of the lost peers; `operation`: what this rank was doing;
    `waited_s`: seconds it had waited.
    """

    def __init__(self, ranks: Sequence[int], operation: str, waited_s: float, reason: str) -> None:
        super().__init__(
            f"worker ranks {list(ranks)} {reason} during {operation}; waited {waited_s:.2f} s"
        )
        self.ranks = tuple(ranks)
        self.operation = operation
        self.waited_s = waited_s


class Collectives(Protocol):
    """What a joint step's tensors need of the ranks of an instance; see TransportGroup."""

    @property
    def rank(self) -> int: ...

    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor: ...

    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor: ...


class TransportGroup(ABC):
    """The ranks of one block, which call the same operations in the same order.

    Every operation is collective and blocks until all ranks have called it: a step of a peer may
    take minutes. It raises PeerLostError when a peer is dead, is stopped, or makes no progress for
    `timeout_s` seconds. Tensors are CPU tensors. Results never alias memory that a later operation
    changes.
    """

    rank: int
    """Rank inside the group, 0 .. size-1."""
    size: int
    """Number of ranks in the group."""
    timeout_s: float
    """Seconds without progress of a peer after which it is lost."""
    phase: str = ""
    """What the operations that follow are part of, for the text of PeerLostError."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when every rank has called it."""

    @abstractmethod
    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum `x` (same shape and floating dtype on every rank, any size) over the ranks.

        Works in place and returns `x`. The result has the same bits on every rank.
        """

    @abstractmethod
    def all_gather(self, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """Concatenate the ranks' `x` (same shape and dtype) in rank order along `dim`."""

    @abstractmethod
    def all_gather_rows(self, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Concatenate `x` [rows[rank], ...] in rank order: [sum(rows), ...].

        `rows` has one entry per rank and is the same list everywhere; zero is allowed. Dtype and
        trailing shape are the same everywhere.
        """

    @abstractmethod
    def exchange(self, record: np.ndarray) -> list[np.ndarray]:
        """Send `record` (int64, 1-D, any length, different on each rank) to all.

        Returns the records by rank as private copies.
        """

    @abstractmethod
    def close(self) -> None:
        """Release memory and descriptors. Not collective; peers that still wait for this rank
        get PeerLostError. Calling it again does nothing."""
