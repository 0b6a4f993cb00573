"""One run: a workload at a rate, on hosts of one kind; and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.policy.base import Policy
from bench.simulation.clock import Clock
from bench.simulation.host import Host
from bench.simulation.instance import Batching
from bench.simulation.mechanisms import Mechanism
from bench.simulation.requests import Workload
from bench.simulation.worker import Request

# Criterion (a): all is done within the span of the arrivals, this share and this time more.
SPAN_SHARE, SPAN_S = 1.05, 60.0
# Criterion (b): (a), and these hold.
SHORT_TTFT_S, TOKEN_S = 10.0, 0.1
# Requests with so few output tokens have no meaningful mean time between them.
_LEAST_OUTPUT = 8


@dataclass(frozen=True)
class Contender:
    """layout: the degrees of a host that never change, or None."""

    name: str
    policy: Policy
    mechanism: Mechanism
    layout: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """Of one run; times in seconds. rate, completed: requests a second, asked for and reached.
    tokens: prompt and output tokens a second of what was completed."""

    rate: float
    completed: float
    tokens: float
    done: int
    rejected: int
    total: int
    finished_in_time: bool
    short_ttft_median: float
    short_ttft_p99: float
    long_ttft_p99: float
    token_median: float
    token_p99: float
    changes_per_minute: float
    merged_share: float
    paused_share: float

    @property
    def completes(self) -> bool:
        """Criterion (a)."""
        return self.finished_in_time

    @property
    def meets_slo(self) -> bool:
        """Criterion (b)."""
        return (
            self.finished_in_time
            and self.short_ttft_p99 < SHORT_TTFT_S
            and self.token_p99 < TOKEN_S
        )


def percentile(values: Sequence[float], share: float) -> float:
    """A value that `share` of all do not exceed; 0 of none."""
    return float(np.quantile(values, share, method="higher")) if values else 0.0


class Run:
    """`hosts` hosts of `workers` workers; arrivals are divided by `rate`, a host's share of which
    is rate / hosts. A gateway sends every request to the host with the least requests."""

    def __init__(
        self,
        contender: Contender,
        workload: Workload,
        rate: float,
        batching: Batching,
        workers: int = 8,
        hosts: int = 1,
    ) -> None:
        self.contender, self.workload, self.rate = contender, workload, rate
        self.clock = Clock()
        self.done: list[Request] = []
        self.open = [0] * hosts
        layout = None if contender.layout is None else Layout(contender.layout)
        self.hosts = [
            Host(
                self.clock, contender.policy, contender.mechanism, batching, workers, layout=layout,
                finished=lambda request, now, number=number: self._end(request, number),
                refused=lambda request, number=number: self._refuse(number),
            )
            for number in range(hosts)
        ]  # fmt: skip
        self.rejected = 0

    def play(self, endless: bool = False) -> Outcome:
        """Until all is done, or until criterion (a) has failed unless `endless`."""
        work, clock = self.workload, self.clock
        limit = work.arrivals[-1] / self.rate * SPAN_SHARE + SPAN_S
        total, number, now = len(work), 0, 0.0
        while len(self.done) + self.rejected < total:
            arrival = work.arrivals[number] / self.rate if number < total else float("inf")
            if arrival <= clock.next_time:
                now = arrival
                self._arrive(number, now)
                number += 1
            else:
                now = clock.next_time
                assert now < float("inf"), "requests are left, but nothing will happen"
                if now > limit and not endless:
                    break
                clock.run_next()
        return self._outcome(now)

    def _arrive(self, number: int, now: float) -> None:
        work = self.workload
        request = Request(
            number, now, work.prompts[number], work.outputs[number], work.long[number]
        )
        host = min(range(len(self.hosts)), key=self.open.__getitem__)
        self.open[host] += 1
        self.hosts[host].arrive(request, now)

    def _end(self, request: Request, host: int) -> None:
        self.open[host] -= 1
        self.done.append(request)

    def _refuse(self, host: int) -> None:
        self.open[host] -= 1
        self.rejected += 1

    def _outcome(self, now: float) -> Outcome:
        short = [r.first - r.arrival for r in self.done if not r.long]
        long = [r.first - r.arrival for r in self.done if r.long]
        token = [(r.end - r.first) / (r.output - 1) for r in self.done if r.output > _LEAST_OUTPUT]
        all_s = max(now, 1e-9) * sum(len(host.workers) for host in self.hosts)
        return Outcome(
            rate=self.rate,
            completed=len(self.done) / max(now, 1e-9),
            tokens=sum(r.tokens for r in self.done) / max(now, 1e-9),
            done=len(self.done),
            rejected=self.rejected,
            total=len(self.workload),
            finished_in_time=len(self.done) + self.rejected == len(self.workload),
            short_ttft_median=percentile(short, 0.5),
            short_ttft_p99=percentile(short, 0.99),
            long_ttft_p99=percentile(long, 0.99),
            token_median=percentile(token, 0.5),
            token_p99=percentile(token, 0.99),
            changes_per_minute=60 * sum(len(h.changes) for h in self.hosts) / max(now, 1e-9),
            merged_share=sum(host.merged_s for host in self.hosts) / all_s,
            paused_share=sum(host.paused_s for host in self.hosts) / all_s,
        )
