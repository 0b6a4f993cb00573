"""Carries out one committed transformation on one worker, together with its block."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.kv.mover import KVMover
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.memory.base import MemoryFault
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.model.kv_pool import ElasticKVPool
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.plan.moves import unit_moves
from amoeba_sglang.transport import TransportGroup
from amoeba_sglang.worker.page_exchange import PageExchange


@dataclass(frozen=True)
class TransformReport:
    """Seconds of a transformation on this worker, and the bytes it received.

    barrier_seconds: waiting for the slowest worker of the block; move_seconds: moving KV, weights
    and pages, during which no token is made. error: why the layout is the old one again, or empty.
    """

    barrier_seconds: float
    move_seconds: float
    kv_bytes: int
    weight_bytes: int
    error: str


class Transformation:
    """One worker's part of an order: all layers go from its degree before to the one after.

    `index`: position in the block; `block`: the transport over exactly the block's ranks.
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
    ) -> None:
        self._order, self._chain = order, chain
        self._before, self._after = order.before[index], order.after[index]
        self._layers, self._pool, self._pages = layers, pool, pages
        self._block, self._mover = block, mover

    def perform(self, live: np.ndarray) -> TransformReport:
        """Move everything, or nothing if any worker of the block runs into a MemoryFault.

        `live`: local live slots. The first exchange is the barrier after which nobody steps at the
        old layout. A merge moves KV first and then frees weights; a split takes weights back
        first, so that no step needs memory that is not free yet.
        """
        order, started = self._order, time.monotonic()
        received = self._block.exchange(
            np.concatenate([np.array([order.epoch], dtype=np.int64), live])
        )
        epochs = [int(words[0]) for words in received]
        assert set(epochs) == {order.epoch}, f"block {order.ranks} entered with epochs {epochs}"
        entered = time.monotonic()
        all_live = [words[1:] for words in received]
        kv_bytes = weight_bytes = 0
        if max(order.after) > min(order.before):
            kv_bytes = self._move_kv(order.before, order.after, all_live)
            weight_bytes, error = self._change_pages()
            if error:
                kv_bytes += self._move_kv(order.after, order.before, all_live)
        else:
            weight_bytes, error = self._change_pages()
            if not error:
                kv_bytes = self._move_kv(order.before, order.after, all_live)
        degree = self._before if error else self._after
        for number, layer in enumerate(self._layers):
            layer.switch(degree)
            self._pool.view_layer(number, degree)
        # Nobody may write KV of the new layout while a peer still moves the old one, or leave while
        # a peer still reads its pages.
        self._block.barrier()
        moved = time.monotonic() - entered
        return TransformReport(entered - started, moved, kv_bytes, weight_bytes, error)

    def _move_kv(self, before: list[int], after: list[int], live: list[np.ndarray]) -> int:
        moves = unit_moves(self._chain, tuple(before), tuple(after))
        return self._mover.move(range(len(self._layers)), moves, live)

    def _change_pages(self) -> tuple[int, str]:
        """(bytes copied, error): the whole block succeeds, or the whole block is as before."""
        if self._pages is None:
            return 0, ""
        copied, fault = 0, ""
        try:
            copied = self._pages.change(self._before, self._after)
        except MemoryFault as error:
            fault = str(error)
        failed = self._block.exchange(np.array([bool(fault)], dtype=np.int64))
        if not any(int(words[0]) for words in failed):
            return copied, ""
        if fault:
            return copied, fault
        self._pages.undo(self._before)
        ranks = [r for r, words in zip(self._order.ranks, failed, strict=True) if int(words[0])]
        return copied, f"ranks {ranks} ran into a memory fault"
