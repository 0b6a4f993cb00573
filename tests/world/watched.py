"""A worker's protocol that lets the world see each of its effects before it is done."""

from typing import Any

from amoeba_sglang.control.worker.protocol import MayMeet, Order, State, Steps, WorkerProtocol
from tests.world.stage import STAGE


class WatchedProtocol(WorkerProtocol):
    """Of `worker`."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker.rank)
        self._worker = worker

    @property
    def stage(self) -> str:
        """Where its order is, if it has one, or it without one."""
        if self._undecided is not None:
            return "while an order is undecided"
        if self._voted is not None:
            return "after a yes"
        if self._committed is not None:
            return "after COMMIT"
        if self.state is State.CHANGING:
            return "in mid-change"
        return "alone" if self.state is State.ALONE else "when merged"

    def receive(self, order: Order, now: float) -> Steps:
        yield from self._watch(super().receive(order, now))

    def turn(self, planned: bool) -> Steps:
        yield from self._watch(super().turn(planned))

    def _watch(self, steps: Steps) -> Steps:
        result = None
        while True:
            try:
                effect = steps.send(result)
            except StopIteration:
                return
            STAGE.play.see_effect(self._worker, effect)
            result = yield effect
            if isinstance(effect, MayMeet) and not result:
                STAGE.play.rare.count("steps before a meeting")
