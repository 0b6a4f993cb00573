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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from amoeba_sglang.errors import ConfigError


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
    """Alike requests. share: of all requests, in 0..1; the tokens are means."""

    share: float
    prompt_tokens: float
    output_tokens: float


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

    def step_seconds(
        self,
        degree: int,
        rows: float,
        prefill_tokens: float = 0.0,
        context_tokens: float = 0.0,
        prefill_context: float = 0.0,
    ) -> float:
        """Of one step of an instance of `degree`."""
        cost = self.degrees[degree].cost
        return cost.seconds(rows, prefill_tokens, context_tokens, prefill_context)

    def prompt_seconds(self, degree: int, prompt_tokens: float, cached_tokens: float = 0.0) -> float:
        """The prefill of one prompt in an instance of `degree` that does nothing else."""
        return self.degrees[degree].cost.prompt_seconds(prompt_tokens, cached_tokens)

    def requests_per_worker(
        self, degree: int, classes: Iterable[RequestClass], most_token_s: float
    ) -> float:
        """Requests a second that each worker of saturated instances of `degree` completes.

        As many run at a time as the KV and the rows allow, but no more than keep the mean time
        between two tokens of a request at `most_token_s`; 0 if even one does not.
        """
        here = self.degrees[degree]
        found = tuple(classes)
        share = sum(one.share for one in found)
        if share <= 0:
            return 0.0
        output = sum(one.share * one.output_tokens for one in found) / share
        prompt_s = (
            sum(one.share * here.cost.prompt_seconds(one.prompt_tokens) for one in found) / share
        )
        # A request stays as long as it decodes, so what is held at a time is weighted by outputs.
        stays = sum(one.share * max(1.0, one.output_tokens) for one in found)
        held = (
            sum(
                one.share
                * max(1.0, one.output_tokens)
                * (one.prompt_tokens + one.output_tokens / 2)
                for one in found
            )
            / stays
        )
        rows = min(float(here.max_rows), here.kv_tokens / max(1.0, held))
        best, step = 0.0, rows / 24
        for part in range(1, 25):
            n = max(1.0, part * step)
            decode_s = here.cost.seconds(n, 0.0, n * held)
            rate = 1.0 / (prompt_s + output * decode_s / n)
            # By Little's law a request spends n / rate, nearly all of it between its tokens.
            if n / rate <= most_token_s * max(1.0, output):
                best = max(best, rate)
        return best / degree

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
