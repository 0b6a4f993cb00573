"""Flushes the caches of all workers or of none.

A worker flushes only when it is idle. Each for itself, some would flush and others not. So the
router first asks all of them, and sends no request until they have answered: a worker that is idle
and gets nothing stays so.
"""

from dataclasses import dataclass, field

from amoeba_sglang.control.reports import IdleAnswer
from amoeba_sglang.control.router.effects import AskIdle, Effect, Flush, RefuseControl

# A worker whose last request has just ended needs a step or two until it is idle.
_LEAST_SECONDS = 0.25
_RETRY_SECONDS = 0.05
# For answers. An idle worker answers in milliseconds, and requests wait meanwhile.
ANSWER_SECONDS = 1.0


@dataclass
class _Wanted:
    """A flush that has been asked for: when to give up, and when to try next."""

    payload: object
    deadline: float
    retry: float


@dataclass
class _Question:
    """The last that was put to the workers; idle: what they have said, by rank."""

    number: int
    deadline: float
    idle: dict[int, bool] = field(default_factory=dict)


class CacheFlush:
    """The flush that is asked for now, if any.

    `step` after every event and `take` what comes meanwhile. While `asking`, the caller sends
    nothing to any worker.
    """

    def __init__(self, workers: int) -> None:
        self._workers, self._numbers = workers, 0
        self._wanted: _Wanted | None = None
        self._question: _Question | None = None

    @property
    def wanted(self) -> bool:
        """Whether a flush waits for idle workers."""
        return self._wanted is not None

    @property
    def asking(self) -> bool:
        """Whether workers are asked now and have not all answered."""
        return self._question is not None

    def start(self, timeout_s: float | None, payload: object, now: float) -> None:
        """Flush at once, or as soon as all are idle within the time that the request gives."""
        # The front end asks for one at a time.
        assert self._wanted is None
        deadline = now + max(timeout_s or 0.0, _LEAST_SECONDS)
        self._wanted = _Wanted(payload, deadline, now)

    def take(self, answer: IdleAnswer) -> None:
        """A worker's answer to an AskIdle; a late one is of no use."""
        if self._question is not None and answer.number == self._question.number:
            self._question.idle[answer.rank] = answer.idle

    def step(self, busy: str | None, now: float) -> list[Effect]:
        """Try again, go on, or give up when the time is over. `busy`: why, as far as the caller
        knows, not all workers are idle."""
        wanted, question = self._wanted, self._question
        if wanted is None:
            return []
        if question is None:
            if now < min(wanted.retry, wanted.deadline):
                return []
            wanted.retry = now + _RETRY_SECONDS
            return self._ask(now) if busy is None else self._conclude(busy, now)
        if len(question.idle) < self._workers and now < question.deadline:
            return []
        self._question = None
        return self._conclude(self._obstacle(question) or busy, now)

    def _ask(self, now: float) -> list[Effect]:
        self._numbers += 1
        self._question = _Question(self._numbers, now + ANSWER_SECONDS)
        return [AskIdle(self._numbers)]

    def _obstacle(self, question: _Question) -> str | None:
        """Which ranks are not idle, or have not said so in time; None if all are."""
        busy = [rank for rank, idle in sorted(question.idle.items()) if not idle]
        if busy:
            return f"ranks {busy} are busy"
        silent = sorted(set(range(self._workers)) - question.idle.keys())
        return f"ranks {silent} did not answer within {ANSWER_SECONDS:g} s" if silent else None

    def _conclude(self, obstacle: str | None, now: float) -> list[Effect]:
        wanted = self._wanted
        assert wanted is not None
        if obstacle is None:
            self._wanted = None
            return [Flush()]
        if now < wanted.deadline:
            return []
        self._wanted = None
        message = f"No cache was flushed, since not all workers were idle in time: {obstacle}."
        return [RefuseControl(wanted.payload, message)]
