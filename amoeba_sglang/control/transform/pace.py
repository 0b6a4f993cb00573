"""How many layers a joint step moves, so that the move is hardly felt."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# By how much moving layers may stretch a joint step.
GROWTH_SHARE = 0.1
# Steps without rows are short; nobody waits for them, and a move must not take minutes.
LEAST_SECONDS = 0.002
_STEPS_REMEMBERED = 4


@dataclass(frozen=True)
class Timing:
    """What one worker measured since the last move: seconds that it took for a layer (0 if nothing
    has moved yet), and seconds of the joint step beside it, without those of the move."""

    layer_seconds: float
    step_seconds: float


class Pace:
    """Chooses k from copy and compute times; all workers of a block choose the same.

    `fixed`: --amoeba-layers-per-step; None chooses, 0 moves all layers at once.
    """

    def __init__(self, fixed: int | None, layers: int) -> None:
        self._fixed, self._layers = fixed, layers
        self._steps: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self.reason = "--amoeba-layers-per-step"

    def next_layers(self, timings: Sequence[Timing]) -> int:
        """k for the next step, from what every worker of the block measured.

        A step is as slow as its slowest worker. Of the last steps the fastest counts, or a decode
        step after a prefill chunk would wait for what was chosen for the chunk.
        """
        if self._fixed is not None:
            return self._fixed or self._layers
        layer_seconds = max(timing.layer_seconds for timing in timings)
        if not layer_seconds:
            self.reason = "the first layer, to measure"
            return 1
        self._steps.append(max(timing.step_seconds for timing in timings))
        step_seconds = min(self._steps)
        budget = max(GROWTH_SHARE * step_seconds, LEAST_SECONDS)
        count = max(1, min(self._layers, int(budget / layer_seconds)))
        self.reason = (
            f"a layer takes {1e3 * layer_seconds:.2f} ms, a step {1e3 * step_seconds:.1f} ms, "
            f"{GROWTH_SHARE:.0%} of it {1e3 * budget:.1f} ms"
        )
        return count
