"""How many workers the present traffic keeps busy, by the measured throughput of every degree."""

from collections.abc import Sequence
from dataclasses import dataclass

from amoeba_sglang.control.policy.throughput import RequestClass, ThroughputTable

# Of a usual chat; tokens.
_USUAL_PROMPT, _USUAL_OUTPUT = 1024.0, 256.0


@dataclass(frozen=True)
class Outlook:
    """short, long: workers kept busy by requests that the base degree holds, and by others.
    long_work_s: seconds of a worker that one of the others takes, on average; 0 if none came."""

    short: float
    long: float
    long_work_s: float

    @property
    def workers(self) -> float:
        return self.short + self.long


def expect_usual_traffic(table: ThroughputTable) -> tuple[RequestClass, ...]:
    """What a base degree is chosen for before any traffic has come: chats, at the smallest degree
    that holds them, or the highest."""
    tokens = _USUAL_PROMPT + _USUAL_OUTPUT
    able = (degree for degree in table.ordered if table.degrees[degree].kv_tokens >= tokens)
    degree = next(able, table.ordered[-1])
    return (RequestClass(1.0, degree, _USUAL_PROMPT, _USUAL_OUTPUT),)


def foresee(
    table: ThroughputTable, base: int, traffic: Sequence[RequestClass], token_s: float
) -> Outlook:
    """The traffic served at degree `base`, and what that does not hold at the smallest degree that
    does. `token_s`: the longest mean time between two tokens that batches are filled up to."""
    groups: dict[int, list[RequestClass]] = {}
    for one in traffic:
        groups.setdefault(max(base, one.degree), []).append(one)
    busy: dict[int, float] = {}
    for degree, classes in groups.items():
        rate = table.saturate(degree, classes, token_s).rate
        busy[degree] = sum(one.rate for one in classes) / rate
    long = sum(workers for degree, workers in busy.items() if degree > base)
    long_rate = sum(one.rate for one in traffic if one.degree > base)
    return Outlook(busy.get(base, 0.0), long, long / long_rate if long_rate else 0.0)
