"""How fast tokens reach clients, while somebody looks."""

from dataclasses import dataclass
from statistics import median

# A request without a token for so long is believed to be gone.
_LOST_SECONDS = 600.0


@dataclass(frozen=True)
class Beat:
    """What came between two looks, in seconds. ttft: the median from a request's arrival to its
    first token; tpot: the mean between tokens of a request; gap: the longest. None: of nobody."""

    tokens_per_second: float
    ttft: float | None
    tpot: float | None
    gap: float | None


class Pulse:
    """Told of every output, it adds up until somebody takes it. Times of one clock, in seconds."""

    def __init__(self, now: float) -> None:
        # By request, its tokens so far and when the last one came.
        self._seen: dict[str, tuple[int, float]] = {}
        self._begin(now)

    def note(
        self, rid: str, tokens: int, now: float, *, created: float | None, finished: bool
    ) -> None:
        """A request has so many output tokens. `created`: when it came, with its first ones."""
        before, last = self._seen.pop(rid, (0, 0.0))
        fresh = tokens - before
        if created is not None:
            self._firsts.append(now - created)
        elif last and fresh > 0:
            self._gaps.append((now - last, fresh))
        if last or created is not None:
            self._tokens += max(0, fresh)
        if not finished:
            self._seen[rid] = (tokens, now if fresh > 0 or not last else last)

    def take(self, now: float) -> Beat:
        """What there was since the last time."""
        tokens = sum(count for _, count in self._gaps)
        beat = Beat(
            self._tokens / max(now - self._began, 1e-3),
            ttft=median(self._firsts) if self._firsts else None,
            tpot=sum(gap for gap, _ in self._gaps) / tokens if tokens else None,
            gap=max((gap for gap, _ in self._gaps), default=None),
        )
        # Of requests that were aborted nothing says that they have ended.
        alive = now - _LOST_SECONDS
        self._seen = {rid: seen for rid, seen in self._seen.items() if seen[1] > alive}
        self._begin(now)
        return beat

    def forget(self, now: float) -> None:
        """Nobody looks any more."""
        self._seen.clear()
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began, self._tokens = now, 0
        self._firsts: list[float] = []
        self._gaps: list[tuple[float, int]] = []
