"""All workers of a group with a tiny model, in step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.transformation import Transformation
from tests.adapters.model.joint_model import LAYERS, Worker, make_model
from tests.adapters.threads import Circle, Turns


class Group:
    """All workers of a group of the finest degree. `make`: the model of each."""

    def __init__(
        self, degrees: tuple[int, ...], page: int, make: Callable[[], Any] = make_model
    ) -> None:
        self.chain, self.turns = DegreeChain(degrees), Turns()
        self._step = self._epoch = 0
        size = self.chain.finest
        circles: list[dict[int, Circle]] = [{} for _ in range(size)]
        for degree in degrees[1:]:
            for first in range(0, size, degree):
                for place, circle in enumerate(Circle.of(degree, self.turns)):
                    circles[first + place][degree] = circle
        self.workers = [
            Worker(index, self.chain, circles[index], page, make) for index in range(size)
        ]

    def place(self, boundary: int, lower: int, upper: int) -> None:
        """Layers [0, boundary) at one degree and the others at another, without any KV yet."""
        for worker in self.workers:
            worker.switch(range(boundary), lower)
            worker.switch(range(boundary, LAYERS), upper)

    def step(
        self, scorer: int | None = None, moving: Sequence[Transformation | None] = ()
    ) -> list[torch.Tensor | None]:
        """Logits by worker. `scorer`: who wants logits of its prompts. `moving`: by worker, the
        transformation that the step is a part of."""
        self._step += 1
        records = [worker.record(self._step, worker.index == scorer) for worker in self.workers]
        parts = zip(self.workers, moving or [None] * len(self.workers), strict=True)
        return self.turns.run(
            [lambda w=worker, m=part: w.step(list(records), m) for worker, part in parts]
        )

    def change(self, before: Sequence[int], after: Sequence[int]) -> list[Transformation]:
        """Begin a transformation of all workers, a layer a step."""
        self._epoch += 1
        order = TransformOrder(
            phase="commit",
            operation_id="op",
            epoch=self._epoch,
            ranks=list(range(len(self.workers))),
            before=list(before),
            after=list(after),
        )
        circles = Circle.of(len(self.workers), self.turns)
        pools = [UnitBuffers(worker.pool.blocks, self.chain.finest) for worker in self.workers]
        parts = [
            worker.transformation(order, circle, pools)
            for worker, circle in zip(self.workers, circles, strict=True)
        ]
        self.turns.run([part.enter for part in parts])
        return parts
