"""How many layers a joint step moves, so that the move is hardly felt."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# By how much moving layers may stretch a joint step.
GROWTH_SHARE = 0.1
# Steps without rows are short; nobody waits for them, and a move must not take minutes.
LEAST_SECONDS = 0.002
# How many decode steps long a pause may be; a chunk of somebody's prompt stops them for longer.
MOST_PAUSE = 2.0
_STEPS_REMEMBERED = 4


@dataclass(frozen=True)
class Timing:
    """What one worker measured, in seconds.

    layer: that a layer took in the last move, 0 if nothing has moved yet; step: of the joint step
    beside it, without those of the move; cycle: from the begin of that move to now, 0 if nothing
    has moved yet; plain: of a decode step before the change, 0 of a worker without rows.
    """

    layer: float
    step: float
    cycle: float = 0.0
    plain: float = 0.0


class Pace:
    """Chooses k from copy and compute times; all workers of a block choose the same.

    `fixed`: --amoeba-layers-per-step; None chooses, 0 moves all layers at once.
    """

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._steps: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self.reason = "--amoeba-layers-per-step"

    def next_layers(self, timings: Sequence[Timing], left: int) -> int:
        """k for the next step, from what every worker of the block measured, with `left` layers to
        move.

        A step is as slow as its slowest worker. Of the last steps the fastest counts, or a decode
        step after a prefill chunk would wait for what was chosen for the chunk.
        """
        if self._fixed is not None:
            return self._fixed or left
        layer = max(timing.layer for timing in timings)
        if not layer:
            self.reason = "the first layer, to measure"
            return 1
        self._steps.append(max(timing.step for timing in timings))
        step = min(self._steps)
        budget = max(GROWTH_SHARE * step, LEAST_SECONDS)
        count = max(1, min(left, int(budget / layer)))
        self.reason = (
            f"a layer takes {1e3 * layer:.2f} ms, a step {1e3 * step:.1f} ms, "
            f"{GROWTH_SHARE:.0%} of it {1e3 * budget:.1f} ms"
        )
        return left if self._ends_sooner(timings, left * layer, moves=-(-left // count)) else count

    def _ends_sooner(self, timings: Sequence[Timing], pause: float, moves: int) -> bool:
        """Whether a pause for all that is left costs less than so many more moves, by what the last
        one has added to a step, and is no longer than MOST_PAUSE."""
        plain = max(timing.plain for timing in timings)
        added = max(timing.cycle for timing in timings) - plain
        if moves < 2 or pause > min(moves * added, MOST_PAUSE * plain):
            return False
        self.reason = (
            f"all at once: {1e3 * pause:.1f} ms, {moves} moves would add {1e3 * added:.1f} ms each "
            f"to steps of {1e3 * plain:.1f} ms"
        )
        return True
