"""What every way to run the steps of a worker has in common: who takes part, at which degree."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord


class Layer(Protocol):
    """A decoder layer whose degree can change."""

    degree: int

    def switch(self, degree: int) -> None: ...


class LayerMove(Protocol):
    """Layers on their way to another degree, which move beside the others from `begin` on.
    `settle` returns when they can compute; the executor calls it before the first of them."""

    @property
    def layers(self) -> range: ...

    def begin(self) -> None: ...

    def settle(self) -> None: ...


class StepExecutor(ABC):
    """Runs the steps of one worker, alone or jointly.

    `layers`: the model's layers with their current degree; ranges of equal degree are the segments
    of a step, the lower degree first. `index`: of the worker in its group.
    """

    lag = 0
    """Steps that still run when the next is planned."""
    mirrors: list[RowMirror]
    """What this worker knows of the rows of its group, by index; empty if it need not know."""

    def __init__(self, layers: Sequence[Layer], index: int) -> None:
        self.layers, self.index = layers, index
        self._expected: tuple[list[StepRecord], LayerMove | None] | None = None

    @property
    def degree(self) -> int:
        """The higher degree while layers are at two."""
        return self.layers[-1].degree

    def expect(self, records: list[StepRecord], move: LayerMove | None) -> None:
        """Hand over what the next `forward` or `follow` runs.

        `records`: one for every worker that is in step, by rank. `move`: layers that change degree
        while those before them compute, or None.
        """
        assert self._expected is None, "the previous joint step never ran"
        self._expected = records, move

    def hear(self, records: list[StepRecord]) -> None:
        """Let the mirrors follow the rows of all workers in step, by rank; before `expect`.

        Also of those that this step does not compute together with, since a transformation may turn
        round: owners take everything that they have told for known.
        """
        for mirror, record in zip(self.mirrors, records, strict=False):
            mirror.forget(record.dead_rows)
            for row in record.rows:
                mirror.apply(row.row, row.known, row.slots)

    def forget(self) -> None:
        """Drop what is known of the peers' rows, when the instance changes."""
        for mirror in self.mirrors:
            mirror.clear()

    @abstractmethod
    def forward(self, own: Any) -> Any | None:
        """`ModelRunner.joint_forward`: logits of the rows of the ForwardBatch `own`; None if it is
        left to the ModelRunner."""

    @abstractmethod
    def follow(self) -> None:
        """Take part in a joint step without rows of one's own."""

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all that was launched has run."""

    def _take_expected(self) -> tuple[list[StepRecord], LayerMove | None]:
        assert self._expected is not None
        expected, self._expected = self._expected, None
        return expected

    def _segments(self, move: LayerMove | None) -> Iterator[tuple[int, int, int]]:
        """(degree, first, end) of the layers in turn; those of `move` have settled when it is their
        turn. To be run one by one, as they are given."""
        if move is not None:
            move.begin()
        first, present = 0, 0
        while first < len(self.layers):
            if move is not None and first == move.layers.start:
                move.settle()
                move = None
            degree = self.layers[first].degree
            assert degree >= present, "layers below the boundary must be at the lower degree"
            end = self._segment_end(first, len(self.layers) if move is None else move.layers.start)
            yield degree, first, end
            first, present = end, degree

    def _segment_end(self, first: int, limit: int) -> int:
        """The end of the layers from `first` on, before `limit`, that are at its degree."""
        degree, end = self.layers[first].degree, first + 1
        while end < len(self.layers) and end != limit and self.layers[end].degree == degree:
            end += 1
        return end
