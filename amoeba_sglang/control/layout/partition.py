"""Layouts: the partition of all workers into instances, and the changes that users may ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import AmoebaError


class LayoutError(AmoebaError):
    """A layout or a change of it that is not possible; `field` names the argument at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True)
class Layout:
    """The degree of every rank's instance; instances are aligned blocks of consecutive ranks."""

    degrees: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.degrees:
            raise LayoutError("degrees", "a layout needs at least one worker")
        rank = 0
        while rank < len(self.degrees):
            degree = self.degrees[rank]
            if degree < 1:
                raise LayoutError("degrees", f"rank {rank} has degree {degree}, the least is 1")
            block = self.degrees[rank : rank + degree]
            if rank % degree or block != (degree,) * degree:
                raise LayoutError(
                    "degrees",
                    f"{list(self.degrees)} is not made of aligned instances: "
                    f"rank {rank} says degree {degree}",
                )
            rank += degree

    @classmethod
    def uniform(cls, workers: int, degree: int) -> Layout:
        """`workers` ranks in instances of one degree, which must divide them (LayoutError)."""
        if degree < 1 or workers % degree:
            raise LayoutError("degree", f"{degree} does not divide {workers} workers")
        return cls((degree,) * workers)

    @property
    def workers(self) -> int:
        return len(self.degrees)

    @cached_property
    def instances(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of every instance, in rank order."""
        found, start = [], 0
        while start < self.workers:
            found.append(tuple(range(start, start + self.degrees[start])))
            start += self.degrees[start]
        return tuple(found)

    def instance_of(self, rank: int) -> tuple[int, ...]:
        """The ranks that step together with `rank`, itself included."""
        start = rank - rank % self.degrees[rank]
        return tuple(range(start, start + self.degrees[rank]))

    def change(self, chain: DegreeChain, ranks: Sequence[int], degree: int) -> Layout:
        """The layout after the block `ranks` becomes len(ranks) / degree instances of `degree`.

        `ranks`, in any order, must be an aligned block of whole instances whose length is in
        `chain`, and `degree` a degree of `chain` not above that length. One change only merges or
        only splits. Raises LayoutError with field "ranks" or "degree" and one clear line. Equal
        layouts: nothing to do.
        """
        block = self._block(chain, ranks)
        allowed = ", ".join(map(str, chain.degrees))
        if degree not in chain.degrees:
            raise LayoutError("degree", f"{degree} is not one of the allowed degrees {allowed}")
        if degree > len(block):
            raise LayoutError(
                "degree", f"{degree} needs {degree} ranks, got {len(block)}: {list(block)}"
            )
        before = [self.degrees[rank] for rank in block]
        if min(before) < degree < max(before):
            raise LayoutError(
                "degree",
                f"{degree} would merge some instances of ranks {list(block)} and split others "
                f"(degrees {before}); change them one after the other",
            )
        degrees = list(self.degrees)
        degrees[block[0] : block[-1] + 1] = [degree] * len(block)
        return Layout(tuple(degrees))

    def orders(self, chain: DegreeChain) -> Iterator[tuple[range, int]]:
        """The ranks and degree of every change that leads to another layout."""
        for width in chain.degrees[1:]:
            for first in range(0, self.workers // width * width, width):
                ranks = range(first, first + width)
                for degree in chain.degrees:
                    try:
                        after = self.change(chain, ranks, degree)
                    except LayoutError:
                        continue
                    if after != self:
                        yield ranks, degree

    def _block(self, chain: DegreeChain, ranks: Sequence[int]) -> tuple[int, ...]:
        shown, block = list(ranks), tuple(sorted(ranks))
        if not block:
            raise LayoutError("ranks", "empty; name the ranks of one aligned block")
        if block[0] < 0 or block[-1] >= self.workers:
            raise LayoutError("ranks", f"{shown} has ranks outside 0..{self.workers - 1}")
        if len(set(block)) < len(block):
            raise LayoutError("ranks", f"{shown} names a rank twice")
        if len(block) not in chain.degrees:
            allowed = ", ".join(map(str, chain.degrees))
            raise LayoutError(
                "ranks", f"{shown} has {len(block)} ranks; a block has one of {allowed}"
            )
        start = block[0] - block[0] % len(block)
        aligned = tuple(range(start, start + len(block)))
        if block != aligned:
            raise LayoutError(
                "ranks", f"{shown} is not aligned; rank {block[0]} is in block {list(aligned)}"
            )
        for rank in block:
            if cut := [peer for peer in self.instance_of(rank) if peer not in block]:
                raise LayoutError(
                    "ranks",
                    f"{shown} cuts the instance {list(self.instance_of(rank))} of rank {rank}; "
                    f"add {cut}",
                )
        return block
