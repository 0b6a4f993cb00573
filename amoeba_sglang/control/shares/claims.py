"""What the requests of a worker have of its slots, and what they have been promised."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from amoeba_sglang.control.layout.locations import slots_filled


class Row(Protocol):
    """The slots of a request that the prefix cache does not own."""

    def slots(self) -> np.ndarray:
        """Their ids in order, int64 [n]."""
        ...

    def replace(self, numbers: np.ndarray, targets: np.ndarray) -> None:
        """Let the `numbers`-th of them be `targets` from now on; int64 [m] each."""
        ...


@dataclass(frozen=True)
class Claim:
    """One request, in tokens.

    held: tokens that have slots. fill: tokens of its prompt and of the output that is known, which
    a prefill would compute. promised: prompt and output when it is complete. long: whether it may
    have slots beyond its worker's own. ending: whether it has ended or been aborted, and only has
    to leave. row: None unless it holds slots.
    """

    key: str
    held: int
    fill: int
    promised: int
    long: bool
    ending: bool = False
    row: Row | None = None

    def rest(self, page: int) -> int:
        """Slots of `page` tokens that it may still take."""
        return self.coming(self.promised, page)

    def coming(self, output_tokens: int, page: int) -> int:
        """Slots that it may still take until so many more tokens of its output are known."""
        end = min(self.promised, max(self.held, self.fill) + output_tokens)
        return max(0, slots_filled(end, page) - slots_filled(self.held, page))


@dataclass(frozen=True)
class Claims:
    """All requests of one worker: `live` ones hold slots, `waiting` ones do not, in their order.

    page: tokens of a slot.
    """

    page: int
    live: Sequence[Claim] = ()
    waiting: Sequence[Claim] = ()

    @cached_property
    def live_long(self) -> list[Claim]:
        return [claim for claim in self.live if claim.long]

    @cached_property
    def long_rest(self) -> int:
        """Slots that live long requests may still take."""
        return sum(claim.rest(self.page) for claim in self.live_long)

    @cached_property
    def short_rest(self) -> int:
        """Slots that live short requests may still take."""
        return sum(claim.rest(self.page) for claim in self.live if not claim.long)

    def first(self, long: bool) -> Claim | None:
        """The first waiting request of a kind."""
        return next((claim for claim in self.waiting if claim.long == long), None)
