"""Carries out one committed transformation on one worker, together with its block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.kv.mover import KVMover
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.memory.base import MemoryFault
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.model.kv_pool import ElasticKVPool
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.plan.boundary import Boundary
from amoeba_sglang.plan.moves import unit_moves
from amoeba_sglang.plan.pace import Pace, Timing
from amoeba_sglang.transport import TransportGroup
from amoeba_sglang.worker.page_exchange import PageExchange


@dataclass
class TransformReport:
    """What a transformation cost on this worker.

    barrier_seconds: waiting for the slowest worker of the block before the first joint step;
    moves: of layers between two joint steps; move_seconds: of all moves; longest_pause_seconds:
    the longest time in which a move, or waiting for the first, kept the worker from a step;
    kv_bytes, weight_bytes: received from peers; pace: why as many layers moved at a time; error:
    why the layout is the old one again, or empty.
    """

    barrier_seconds: float = 0.0
    longest_pause_seconds: float = 0.0
    move_seconds: float = 0.0
    moves: int = 0
    kv_bytes: int = 0
    weight_bytes: int = 0
    pace: str = ""
    error: str = ""


class Transformation:
    """One worker's part of an order: b goes through the layers, a few between two joint steps.

    `index`: position in the block; `block`: the transport over exactly the block's ranks. The
    workers of the block call `enter` and then `advance` in step until `finished`, each with equal
    results but for the bytes and seconds of its report.
    """

    def __init__(
        self,
        order: TransformOrder,
        chain: DegreeChain,
        index: int,
        layers: list[LayerShards],
        pool: ElasticKVPool,
        pages: PageExchange | None,
        block: TransportGroup,
        mover: KVMover,
        pace: Pace,
    ) -> None:
        self.order, self.report = order, TransformReport()
        changes = list(zip(order.before, order.after, strict=True))
        self._lower, self._upper = tuple(map(min, changes)), tuple(map(max, changes))
        merges = self._lower == tuple(order.before)
        assert merges or self._upper == tuple(order.before), f"neither merge nor split: {changes}"
        self.boundary = Boundary.at_start(len(layers), falls=merges)
        self._chain, self._index = chain, index
        self._layers, self._pool, self._pages = layers, pool, pages
        self._block, self._mover, self._pace = block, mover, pace
        self._timing = Timing(0.0, 0.0)
        self._left = time.monotonic()

    @property
    def finished(self) -> bool:
        return self.boundary.finished

    @property
    def degree(self) -> int:
        """Of this worker's layers once b has gone through them in its present direction."""
        return (self._upper if self.boundary.falls else self._lower)[self._index]

    def enter(self) -> None:
        """Meet the block. Nobody steps alone, or in a smaller instance, from here on."""
        epoch, started = self.order.epoch, time.monotonic()
        received = self._block.exchange(np.array([epoch], dtype=np.int64))
        epochs = [int(words[0]) for words in received]
        assert set(epochs) == {epoch}, f"block {self.order.ranks} entered with epochs {epochs}"
        self._left = time.monotonic()
        self.report.barrier_seconds = self._left - started
        self._shrink()

    def advance(self, live: np.ndarray) -> None:
        """Move the next layers, or turn round if a worker of the block runs into a MemoryFault.

        `live`: local live slots now. The exchange of them is also the barrier after which nobody
        computes with the old degrees of these layers.
        """
        started = time.monotonic()
        layer_us, step_us = (
            round(1e6 * s) for s in (self._timing.layer_seconds, started - self._left)
        )
        received = self._block.exchange(
            np.concatenate([np.array([layer_us, step_us], dtype=np.int64), live])
        )
        timings = [Timing(float(words[0]) / 1e6, float(words[1]) / 1e6) for words in received]
        layers = self.boundary.next_layers(self._pace.next_layers(timings))
        moving = time.monotonic()
        if self._changed_pages(layers):
            self._move_kv(layers, [words[2:] for words in received])
            for number in layers:
                self._layers[number].switch(self.degree)
                self._pool.view_layer(number, self.degree)
            self.boundary = self.boundary.after(layers)
        if self.finished:
            self._together(self._grow, self._shrink)
        self._left = time.monotonic()
        self._timing = Timing((self._left - moving) / len(layers), 0.0)
        report, seconds = self.report, self._left - started
        # The first move follows the wait for the block without a joint step in between.
        pause = seconds if report.moves else report.barrier_seconds + seconds
        report.moves += 1
        report.move_seconds += seconds
        report.longest_pause_seconds = max(report.longest_pause_seconds, pause)
        report.pace = self._pace.reason

    def _changed_pages(self, layers: range) -> bool:
        """Free or refill the weights of `layers`; False: some worker could not, so b turns."""
        pages, before = self._pages, self._layers[layers[0]].degree
        if pages is None:
            return True
        return self._together(
            lambda: pages.move_layers(layers, self.degree),
            lambda: pages.move_layers(layers, before),
        )

    def _move_kv(self, layers: range, live: list[np.ndarray]) -> None:
        degrees = [self._lower, self._upper]
        if not self.boundary.falls:
            degrees.reverse()
        moves = unit_moves(self._chain, *degrees)
        self.report.kv_bytes += self._mover.move(layers, moves, live)

    def _shrink(self) -> None:
        """Take back the pages that the KV has of this worker, unless its degree stays."""
        if self._pages is not None and self._lower[self._index] != self._upper[self._index]:
            self._pages.shrink()
            self._view_all()

    def _grow(self) -> int:
        """Inverse of `_shrink`, at the degree that all layers are at now; copies no byte."""
        if self._pages is not None and self._lower[self._index] != self._upper[self._index]:
            self._pages.grow(self.degree)
            self._view_all()
        return 0

    def _view_all(self) -> None:
        for number, layer in enumerate(self._layers):
            self._pool.view_layer(number, layer.degree)

    def _together(self, act: Callable[[], int], undo: Callable[[], object]) -> bool:
        """All workers of the block do `act`, which returns bytes copied, or none has and b turns.

        A second fault, on the way back, ends the worker: there is no layout left to serve in.
        """
        fault = ""
        try:
            self.report.weight_bytes += act()
        except MemoryFault as error:
            fault = str(error)
        failed = self._block.exchange(np.array([bool(fault)], dtype=np.int64))
        victims = [
            rank for rank, words in zip(self.order.ranks, failed, strict=True) if int(words[0])
        ]
        if not victims:
            return True
        reason = fault or f"ranks {victims} ran into a memory fault"
        if self.report.error:
            raise MemoryFault(f"{reason}, while undoing what failed because: {self.report.error}")
        if not fault:
            undo()
        self.report.error = reason
        self.boundary = self.boundary.reversed()
        return False
