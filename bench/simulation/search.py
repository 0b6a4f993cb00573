"""The highest rate that a contender sustains, by bisection, and a bound that nobody can pass."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.simulation.instance import Batching
from bench.simulation.requests import Workload
from bench.simulation.run import Contender, Outcome, Run

TOLERANCE = 0.03
_WIDEN, _LEAST_RATE = 1.6, 0.01
# Far above what any host sustains.
_FLOOD = 1000.0
_FEWEST = 160


@dataclass(frozen=True)
class Sustained:
    """The outcomes at the highest rates that meet criterion (a) and (b); None if no rate does.

    runs: how many were simulated.
    """

    completes: Outcome | None
    meets_slo: Outcome | None
    runs: int


class Search:
    """Runs of one contender on one workload, each rate once."""

    def __init__(
        self, contender: Contender, workload: Workload, batching: Batching, workers: int, hosts: int
    ) -> None:
        self._make = lambda rate: Run(
            contender, workload, rate, batching, workers=workers, hosts=hosts
        ).play()
        self._known: dict[float, Outcome] = {}

    def find(self, guess: float) -> Sustained:
        """Begins at `guess` requests a second."""
        first = self._highest(lambda outcome: outcome.completes, guess)
        start = guess if first is None else first.rate
        second = self._highest(lambda outcome: outcome.meets_slo, start)
        return Sustained(first, second, len(self._known))

    def _run(self, rate: float) -> Outcome:
        rate = float(f"{rate:.4g}")
        if rate not in self._known:
            self._known[rate] = self._make(rate)
        return self._known[rate]

    def _highest(self, passes: Callable[[Outcome], bool], guess: float) -> Outcome | None:
        low, high = guess, guess
        if passes(self._run(guess)):
            while passes(self._run(high := high * _WIDEN)):
                low = high
                if low > _FLOOD:
                    return self._run(low)
        else:
            while not passes(self._run(low := low / _WIDEN)):
                high = low
                if low < _LEAST_RATE:
                    return None
        while high / low > 1 + TOLERANCE:
            middle = (low * high) ** 0.5
            if passes(self._run(middle)):
                low = middle
            else:
                high = middle
        return self._run(low)


def fluid_bound(
    statics: dict[int, Contender], workload: Workload, batching: Batching, workers: int
) -> tuple[float, float]:
    """Requests a second by criterion (a) and (b) if time were shared perfectly and for nothing
    between the best static layout for short requests and the best for long ones.

    Not strict: it does not count that short requests may decode beside long ones. (b) lets long
    requests be as slow as they like.
    """
    share = sum(workload.long) / len(workload)
    short, long = _only(workload, False), _only(workload, True)
    contenders = [contender for _, contender in sorted(statics.items())]
    short_a = short_b = long_a = 0.0
    for contender in contenders:
        if len(short):
            found = _flood(contender, short, batching, workers)
            short_a = max(short_a, found)
            slo = Search(contender, short, batching, workers, 1).find(max(found, 0.1)).meets_slo
            short_b = max(short_b, 0.0 if slo is None else slo.completed)
        if len(long):
            long_a = max(long_a, _flood(contender, long, batching, workers))

    def shared(rate: float) -> float:
        seconds = (1 - share) / rate if len(short) else 0.0
        return 1 / (seconds + (share / long_a if long_a else 0.0))

    return shared(short_a), shared(short_b) if short_b else 0.0


def _flood(contender: Contender, workload: Workload, batching: Batching, workers: int) -> float:
    """Requests a second in the middle of a run in which all come at once."""
    run = Run(contender, workload, _FLOOD, batching, workers)
    if run.play(endless=True).rejected:
        return 0.0
    ends = sorted(request.end for request in run.done)
    first, last = len(ends) // 5, 4 * len(ends) // 5
    return (last - first) / (ends[last] - ends[first])


def _only(workload: Workload, long: bool) -> Workload:
    """The short or the long requests alone, at one a second again, at most 3,000.

    Few are repeated, so that there is a middle of a run without its begin and end.
    """
    chosen = [number for number, is_long in enumerate(workload.long) if is_long == long][:3000]
    if chosen:
        chosen *= max(1, _FEWEST // len(chosen))

    def pick(values: tuple) -> tuple:
        return tuple(values[number] for number in chosen)

    return Workload(
        workload.name, tuple(map(float, range(len(chosen)))), pick(workload.prompts),
        pick(workload.outputs), pick(workload.long), changes=workload.changes,
    )  # fmt: skip
