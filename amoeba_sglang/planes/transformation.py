"""Carries out one committed transformation on one worker, together with its block."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import astuple, dataclass

import numpy as np

from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import TransformReport
from amoeba_sglang.control.transform.boundary import Boundary
from amoeba_sglang.control.transform.moves import unit_moves
from amoeba_sglang.control.transform.pace import Pace, Timing
from amoeba_sglang.control.worker.protocol import Order
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.transport import TransportGroup


@dataclass(frozen=True)
class Copied:
    """What the helper has done with some layers: bytes received, processor seconds, why not."""

    kv_bytes: int
    weight_bytes: int
    seconds: float
    fault: str


class Transformation:
    """One worker's part of an order: b goes through the layers, a few at every joint step.

    A step starts with `advance`, which chooses the layers that move next; they do from `begin` on,
    while those before them compute, and `settle` comes before anybody computes with them. The
    workers of the block call `enter` and then these in step until `finished`, each with equal
    results but for the bytes and seconds of its report.

    `index`: position in the block. `block`, `moving`: transports over exactly the block's ranks,
    for the caller's thread and for `helper`, the thread that copies. `plain_seconds`: see Timing;
    `now`: the clock of all times.
    """

    def __init__(
        self,
        order: Order,
        chain: DegreeChain,
        index: int,
        *,
        plane: Plane,
        block: TransportGroup,
        moving: TransportGroup,
        pace: Pace,
        plain_seconds: float,
        helper: Executor,
        now: Callable[[], float],
    ) -> None:
        self.order, self.report = order, TransformReport()
        changes = list(zip(order.before, order.after, strict=True))
        self._lower, self._upper = tuple(map(min, changes)), tuple(map(max, changes))
        merges = self._lower == tuple(order.before)
        assert merges or self._upper == tuple(order.before), f"neither merge nor split: {changes}"
        self.boundary = Boundary.at_start(len(plane.executor.layers), falls=merges)
        self.finished = False
        self.layers = range(0)
        self._chain, self._index = chain, index
        self._plane, self._block, self._moving = plane, block, moving
        self._pace, self._helper, self._now = pace, helper, now
        self._live: list[np.ndarray] = []
        self._copies: Future[Copied] | None = None
        self._plain_seconds, self._layer_seconds = plain_seconds, 0.0
        # When the last move began, and the seconds of what has moved since the last joint step did.
        self._began: float | None = None
        self._moving_seconds = 0.0
        self._left = self._now()

    @property
    def degree(self) -> int:
        """Of this worker's layers once b has gone through them in its present direction."""
        return (self._upper if self.boundary.falls else self._lower)[self._index]

    def enter(self) -> None:
        """Meet the block. Nobody steps alone, or in a smaller instance, from here on."""
        epoch, started = self.order.epoch, self._now()
        self._block.phase = f"entering operation {self.order.operation_id} after COMMIT"
        received = self._block.exchange(np.array([epoch], dtype=np.int64))
        epochs = [int(words[0]) for words in received]
        assert set(epochs) == {epoch}, f"block {self.order.ranks} entered with epochs {epochs}"
        self._left = self._now()
        self._barrier_seconds = self._left - started
        self._shrink()

    def advance(self, live: np.ndarray) -> None:
        """Choose the next layers to move, or finish.

        `live`: local live slots now. The exchange of them is also the barrier after which nobody
        computes with the old degrees of these layers.
        """
        started = self._now()
        self.settle()
        if not self.boundary.finished:
            self._start(live, max(0.0, started - self._left - self._moving_seconds))
        if not self.layers.start:
            # No layer computes before these.
            self.settle()
        if self.boundary.finished and not self.layers:
            self._finish()
        self._moving_seconds, self._left = 0.0, self._now()
        report, seconds = self.report, self._left - started
        # The first move follows the wait for the block without a joint step in between.
        pause = seconds if report.moves > 1 else self._barrier_seconds + seconds
        report.pause_seconds += seconds
        report.longest_step_seconds = max(report.longest_step_seconds, pause)

    def begin(self) -> None:
        """Let the helper copy from now on. Not in `advance` already: planning the step is Python,
        for which two threads only take turns, while computing leaves the interpreter to the helper.
        """
        if self.layers and self._copies is None:
            self._copies = self._helper.submit(self._copy, self.layers, self._live)

    def settle(self) -> None:
        """Wait for the layers that move, and let b follow; it turns round if a worker of the block
        ran into a MemoryFault, and the layers are as before."""
        self.begin()
        if self._copies is None:
            return
        started = self._now()
        # Not forever: what the helper waits for are its peers, in groups with time limits.
        copied, self._copies = self._copies.result(), None
        report, layers = self.report, self.layers
        report.kv_bytes += copied.kv_bytes
        report.weight_bytes += copied.weight_bytes
        report.copy_seconds += copied.seconds
        self._moving_seconds = self._plane.crowding * copied.seconds
        self._layer_seconds = self._moving_seconds / len(layers)
        if copied.fault:
            self._turn_round(copied.fault)
        else:
            self._plane.switch(layers, self.degree)
            self.boundary = self.boundary.after(layers)
        self.layers = range(0)
        report.settle_seconds += self._now() - started

    def _start(self, live: np.ndarray, step_seconds: float) -> None:
        now = self._now()
        cycle = 0.0 if self._began is None else now - self._began
        self._began = now
        own = Timing(self._layer_seconds, step_seconds, cycle, self._plain_seconds)
        micros = [round(1e6 * seconds) for seconds in astuple(own)]
        received = self._block.exchange(np.concatenate([np.array(micros, dtype=np.int64), live]))
        count = len(micros)
        timings = [Timing(*(words[:count] / 1e6).tolist()) for words in received]
        self.layers = self.boundary.next_layers(self._pace.next_layers(timings, self.boundary.left))
        self.report.moves += 1
        self.report.pace = self._pace.reason
        self._live = [words[count:] for words in received]

    # On the helper's thread

    def _copy(self, layers: range, live: list[np.ndarray]) -> Copied:
        """Free or refill the weights of `layers` and move their KV."""
        started, kv_bytes = self._plane.copy_seconds(), 0
        fault, weight_bytes = self._change_pages(layers)
        if not fault:
            degrees = (self._lower, self._upper)
            moves = unit_moves(self._chain, *(degrees if self.boundary.falls else degrees[::-1]))
            kv_bytes = self._plane.move_units(layers, moves, live)
        return Copied(kv_bytes, weight_bytes, self._plane.copy_seconds() - started, fault)

    def _change_pages(self, layers: range) -> tuple[str, int]:
        """Free or refill the weights of `layers`: (why not, bytes copied)."""
        plane, copied = self._plane, 0
        before = plane.executor.layers[layers[0]].degree

        def change() -> None:
            nonlocal copied
            copied = plane.move_weights(layers, self.degree)

        fault = self._together(self._moving, change, lambda: plane.move_weights(layers, before))
        return fault, copied

    # On either thread

    def _together(
        self, group: TransportGroup, act: Callable[[], object], undo: Callable[[], object]
    ) -> str:
        """All workers of the block do `act`, or none has, and the reason is returned."""
        fault = ""
        try:
            act()
        except MemoryFault as error:
            fault = str(error)
        failed = group.exchange(np.array([bool(fault)], dtype=np.int64))
        ranks = [r for r, words in zip(self.order.ranks, failed, strict=True) if int(words[0])]
        if not ranks:
            return ""
        if not fault:
            undo()
        return fault or f"ranks {ranks} ran into a memory fault"

    # On the caller's thread

    def _turn_round(self, fault: str) -> None:
        """A second fault, on the way back, ends the worker: no layout is left to serve in."""
        if self.report.error:
            raise MemoryFault(f"{fault}, while undoing what failed because: {self.report.error}")
        self.report.error = fault
        self.boundary = self.boundary.reversed()

    def _finish(self) -> None:
        """Let the KV have the pages that this degree frees."""
        fault = self._together(self._block, self._grow, self._shrink)
        if fault:
            self._turn_round(fault)
        else:
            self.finished = True

    def _shrink(self) -> None:
        """Take back the pages that the KV has of this worker, unless its degree stays."""
        if self._changes:
            self._plane.shrink()

    def _grow(self) -> None:
        """Inverse of `_shrink`, at the degree that all layers are at now."""
        if self._changes:
            self._plane.grow(self.degree)

    @property
    def _changes(self) -> bool:
        """Whether the degree of this worker changes."""
        return self._lower[self._index] != self._upper[self._index]
