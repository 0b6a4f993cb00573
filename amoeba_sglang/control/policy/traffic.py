"""What kinds of requests have come lately, and how often."""

import math

from amoeba_sglang.control.policy.base import RequestSize
from amoeba_sglang.control.policy.throughput import RequestClass

# Requests that name no output limit count with this many tokens.
_USUAL_OUTPUT = 256
# The classes are made anew after so long; until then the same object is returned.
_REFRESH_S = 1.0


class TrafficBook:
    """Rates and mean sizes with exponential forgetting. Requests of like length that need the same
    degree are one class. Times in seconds."""

    def __init__(self, constant_s: float) -> None:
        self._constant = constant_s
        # (degree, bit length of the prompt) -> weight, prompt and output tokens, at the last one.
        self._sums: dict[tuple[int, int], tuple[float, float, float, float]] = {}
        self._first: float | None = None
        self._made = -math.inf
        self._classes: tuple[RequestClass, ...] = ()

    def add(self, size: RequestSize, degree: int, now: float) -> None:
        """A request has come; `degree` is the smallest that holds it."""
        if self._first is None:
            self._first = now
        output = _USUAL_OUTPUT if size.output_tokens is None else size.output_tokens
        key = degree, size.prompt_tokens.bit_length()
        weight, prompts, outputs, last = self._sums.get(key, (0.0, 0.0, 0.0, now))
        kept = math.exp((last - now) / self._constant)
        self._sums[key] = (
            weight * kept + 1,
            prompts * kept + size.prompt_tokens,
            outputs * kept + output,
            now,
        )

    def evidence(self, now: float) -> float | None:
        """How many requests the classes rest on: less and less in a silence; None before the first
        request."""
        if self._first is None:
            return None
        seen = self._seen_s(now)
        return sum(one.rate for one in self.classes(now)) * seen

    def classes(self, now: float) -> tuple[RequestClass, ...]:
        """The classes, most frequent first."""
        if now - self._made >= _REFRESH_S or not self._classes:
            self._made, self._classes = now, self._make(now)
        return self._classes

    def _seen_s(self, now: float) -> float:
        """The time that the sums stand for; shorter than the constant at the beginning."""
        if self._first is None:
            return 0.0
        passed = max(_REFRESH_S, now - self._first)
        return self._constant * (1 - math.exp(-passed / self._constant))

    def _make(self, now: float) -> tuple[RequestClass, ...]:
        seen, found = self._seen_s(now), []
        for (degree, _), (weight, prompts, outputs, last) in self._sums.items():
            left = weight * math.exp((last - now) / self._constant)
            if left > 1e-3:
                found.append(RequestClass(left / seen, degree, prompts / weight, outputs / weight))
        return tuple(sorted(found, key=lambda one: -one.rate))
