"""What a step computes, counted in what its time depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class StepWork:
    """The arguments of `DeviceModel.step_seconds` after the degree, which defines them."""

    prefill_tokens: float = 0
    prefill_context: float = 0
    decode_rows: float = 0
    context_tokens: float = 0

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, int]]) -> StepWork:
        """Of rows (tokens after the step, tokens that are new in it); one new token is a decode."""
        prefill = decodes = context = 0
        pairs = 0.0
        for length, new in rows:
            if new == 1:
                decodes += 1
                context += length
            else:
                prefill += new
                pairs += new * (length - new / 2)
        return cls(prefill, pairs, decodes, context)

    def __add__(self, other: StepWork) -> StepWork:
        return StepWork(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __bool__(self) -> bool:
        return self.prefill_tokens > 0 or self.decode_rows > 0
