"""What a step costs at every degree, as measured, and what an instance sustains at it.

A step of an instance of degree d takes

    fixed + row * rows + prefill * prefill_tokens + context * context_tokens
          + attention * prefill_context

seconds. rows: requests that decode one token; prefill_tokens: prompt tokens computed in the step;
context_tokens: KV tokens that the rows read; prefill_context: for every chunk its tokens times the
tokens before its middle, summed, which is what its attention reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from amoeba_sglang.errors import ConfigError

# Batch sizes that are tried for a saturated instance.
_PARTS = 24


@dataclass(frozen=True)
class StepCost:
    """The coefficients of one degree, in seconds."""

    fixed: float
    row: float
    prefill: float
    context: float
    attention: float

    def seconds(
        self,
        rows: float,
        prefill_tokens: float = 0.0,
        context_tokens: float = 0.0,
        prefill_context: float = 0.0,
    ) -> float:
        """Of one step."""
        return (
            self.fixed
            + self.row * rows
            + self.prefill * prefill_tokens
            + self.context * context_tokens
            + self.attention * prefill_context
        )

    def prompt_seconds(self, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
        """What a prompt of which `cached_tokens` are cached adds to the steps that compute it."""
        computed = max(0.0, prompt_tokens - cached_tokens)
        before_middle = cached_tokens + computed / 2
        return computed * (self.prefill + self.attention * before_middle)


@dataclass(frozen=True)
class DegreeThroughput:
    """One degree. kv_tokens: what an instance holds; max_rows: requests it may run at a time."""

    cost: StepCost
    kv_tokens: int
    max_rows: int


@dataclass(frozen=True)
class RequestClass:
    """Alike requests. rate: how many come in a second; degree: the smallest that holds them; the
    tokens are means."""

    rate: float
    degree: int
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True)
class Saturation:
    """An instance that never waits for work. rows: requests that decode at a time; step_s: of such
    a step; rate: requests that each of its workers completes in a second; 0 without requests."""

    rows: float
    step_s: float
    rate: float


@dataclass(frozen=True)
class ThroughputTable:
    """All degrees. transformation_s: what a merge or split costs those who wait for it. source: in
    words, where the numbers come from."""

    degrees: Mapping[int, DegreeThroughput]
    transformation_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        assert self.degrees and 1 in self.degrees, sorted(self.degrees)

    @cached_property
    def ordered(self) -> tuple[int, ...]:
        """The degrees, lowest first."""
        return tuple(sorted(self.degrees))

    def prompt_seconds(self, degree: int, tokens: float, cached_tokens: float = 0.0) -> float:
        """The prefill of one prompt in an instance of `degree` that does nothing else."""
        return self.degrees[degree].cost.prompt_seconds(tokens, cached_tokens)

    def saturate(
        self, degree: int, classes: Sequence[RequestClass], most_token_s: float
    ) -> Saturation:
        """What saturated instances of `degree` do with a mix of requests.

        As many run at a time as the KV and the rows allow, but no more than keep the mean time
        between two tokens of a request at `most_token_s`.
        """
        here, total = self.degrees[degree], sum(one.rate for one in classes)
        if total <= 0:
            return Saturation(0.0, 0.0, 0.0)
        output = sum(one.rate * one.output_tokens for one in classes) / total
        prompt_s = (
            sum(one.rate * here.cost.prompt_seconds(one.prompt_tokens) for one in classes) / total
        )
        # A request stays while it decodes, so what is held at a time is weighted by outputs.
        stays = [one.rate * max(1.0, one.output_tokens) for one in classes]
        held = sum(
            stay * (one.prompt_tokens + one.output_tokens / 2)
            for stay, one in zip(stays, classes, strict=True)
        ) / sum(stays)
        most_rows = min(float(here.max_rows), here.kv_tokens / max(1.0, held))
        best = Saturation(0.0, 0.0, 0.0)
        for part in range(1, _PARTS + 1):
            rows = max(1.0, most_rows * part / _PARTS)
            step_s = here.cost.seconds(rows, 0.0, rows * held)
            rate = 1.0 / (prompt_s + output * step_s / rows)
            # By Little's law a request spends rows / rate, all but its prompt between its tokens.
            if part > 1 and rows / rate - prompt_s > most_token_s * max(1.0, output):
                break
            best = Saturation(rows, step_s, rate / degree)
        return best

    def to_json(self) -> str:
        """A text that `from_json` reads."""
        return json.dumps(
            {
                "source": self.source,
                "transformation_s": self.transformation_s,
                "degrees": {str(degree): asdict(one) for degree, one in self.degrees.items()},
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> ThroughputTable:
        """Raises ConfigError with the field at fault."""
        try:
            fields = json.loads(text)
            degrees = {int(degree): _degree(one) for degree, one in fields["degrees"].items()}
            return cls(degrees, float(fields["transformation_s"]), str(fields["source"]))
        except KeyError as error:
            raise ConfigError(f"throughput table: {error.args[0]} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"throughput table: cannot be read: {error}") from error


def _degree(fields: Mapping[str, Any]) -> DegreeThroughput:
    cost = fields["cost"]
    names = StepCost.__dataclass_fields__
    return DegreeThroughput(
        StepCost(**{name: float(cost[name]) for name in names}),
        int(fields["kv_tokens"]),
        int(fields["max_rows"]),
    )
