"""What a replay measured. Pure; all times are seconds of the replay's clock."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from bench.trace import TraceRequest

PERCENTILES = (50, 90, 99)
# A workload is served if everything has come back this long after its last arrival.
_GRACE_SHARE, _GRACE_S = 0.05, 60.0
_ERRORS_SHOWN = 5


@dataclass
class Outcome:
    """One request of a replay. Times count from the replay's start.

    kind: "done", "rejected" (an HTTP status 4xx) or "failed" (anything else, among it a stream that
    ends without a finish reason). sent, first, last: when the request, its first and its last token
    passed. Tokens are what the server counted; cached_tokens is None if it does not tell.
    """

    request: TraceRequest
    kind: str = "failed"
    error: str = ""
    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    text: str = ""

    @property
    def ttft(self) -> float:
        """From the arrival that the trace demands: a client that sends late hides nothing."""
        return self.first - self.request.arrival

    @property
    def tpot(self) -> float | None:
        """None for a single token."""
        if self.completion_tokens < 2:
            return None
        return (self.last - self.first) / (self.completion_tokens - 1)

    @property
    def e2e(self) -> float:
        return self.last - self.request.arrival


@dataclass(frozen=True)
class Objective:
    """The SLO in seconds; None is no bound. A request is long from `long_tokens` tokens on."""

    ttft: float
    tpot: float
    long_ttft: float | None
    long_tokens: int

    def is_long(self, request: TraceRequest) -> bool:
        return request.tokens >= self.long_tokens

    def is_met(self, outcome: Outcome) -> bool:
        limit = self.long_ttft if self.is_long(outcome.request) else self.ttft
        return (
            outcome.kind == "done"
            and (limit is None or outcome.ttft <= limit)
            and (outcome.tpot is None or outcome.tpot <= self.tpot)
        )


def summarise(outcomes: Sequence[Outcome], objective: Objective) -> dict[str, Any]:
    """Figures of a whole replay; rates are over the time until its last token."""
    done = [outcome for outcome in outcomes if outcome.kind == "done"]
    short = [outcome for outcome in done if not objective.is_long(outcome.request)]
    long = [outcome for outcome in done if objective.is_long(outcome.request)]
    good = [outcome for outcome in done if objective.is_met(outcome)]
    span = max(outcome.request.arrival for outcome in outcomes)
    seconds = max((outcome.last for outcome in done), default=0.0)
    ttft = {
        "all": spread(outcome.ttft for outcome in done),
        "short": spread(outcome.ttft for outcome in short),
        "long": spread(outcome.ttft for outcome in long),
    }
    tpot = spread(outcome.tpot for outcome in done if outcome.tpot is not None)
    served = len(done) == len(outcomes) and seconds <= (1 + _GRACE_SHARE) * span + _GRACE_S
    return {
        "requests": {
            "sent": len(outcomes),
            "long": sum(objective.is_long(outcome.request) for outcome in outcomes),
            **{
                kind: sum(o.kind == kind for o in outcomes)
                for kind in ("done", "rejected", "failed")
            },
        },
        "errors": _most_common_errors(outcomes),
        "span_s": span,
        "seconds": seconds,
        "completed": _rates(done, seconds),
        "goodput": {**_rates(good, seconds), "share": len(good) / len(outcomes)},
        "ttft_s": ttft,
        "tpot_s": tpot,
        "e2e_s": spread(outcome.e2e for outcome in done),
        "served_in_time": served,
        "slo_met": served
        and (not short or ttft["short"]["p99"] <= objective.ttft)
        and (not tpot or tpot["p99"] <= objective.tpot),
        "prompt_tokens": {
            "asked": sum(outcome.request.input_tokens for outcome in done),
            "counted": sum(outcome.prompt_tokens for outcome in done),
            "cached": sum(outcome.cached_tokens or 0 for outcome in done),
        },
        "other_length": {
            "prompt": sum(o.prompt_tokens != o.request.input_tokens for o in done),
            "output": sum(o.completion_tokens != o.request.output_tokens for o in done),
        },
        "sent_late_s": spread(outcome.sent - outcome.request.arrival for outcome in outcomes),
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Mean, percentiles and maximum; empty for no values."""
    found = numpy.fromiter(values, float)
    if not len(found):
        return {}
    percentiles = numpy.percentile(found, PERCENTILES)
    return {
        "mean": float(found.mean()),
        **{f"p{p}": float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "max": float(found.max()),
    }


def _rates(outcomes: Sequence[Outcome], seconds: float) -> dict[str, float]:
    prompt = sum(outcome.prompt_tokens for outcome in outcomes)
    output = sum(outcome.completion_tokens for outcome in outcomes)
    return {
        "requests_per_s": len(outcomes) / seconds if seconds else 0.0,
        "output_tokens_per_s": output / seconds if seconds else 0.0,
        "tokens_per_s": (prompt + output) / seconds if seconds else 0.0,
    }


def _most_common_errors(outcomes: Sequence[Outcome]) -> dict[str, int]:
    errors = Counter(outcome.error for outcome in outcomes if outcome.kind != "done")
    return dict(errors.most_common(_ERRORS_SHOWN))
