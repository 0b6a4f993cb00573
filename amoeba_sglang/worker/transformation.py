"""Carries out one committed transformation on one worker, together with its block."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.kv.mover import KVMover
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.messages import TransformOrder
from amoeba_sglang.model.kv_pool import ElasticKVPool
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.plan.moves import unit_moves
from amoeba_sglang.transport import TransportGroup


@dataclass(frozen=True)
class TransformReport:
    """Seconds of a transformation on this worker, and the bytes it received.

    barrier_seconds: waiting for the slowest worker of the block; move_seconds: moving KV and
    switching layers, during which no token is made.
    """

    barrier_seconds: float
    move_seconds: float
    kv_bytes: int


def perform(
    order: TransformOrder,
    chain: DegreeChain,
    index: int,
    live: np.ndarray,
    layers: list[LayerShards],
    pool: ElasticKVPool,
    block: TransportGroup,
    mover: KVMover,
) -> TransformReport:
    """Move all layers of this worker from its degree before the order to the one after.

    `index`: position in the block; `live`: local live slots; `block`: the transport over exactly
    the block's ranks. The first exchange is the barrier after which nobody steps at the old layout.
    """
    started = time.monotonic()
    received = block.exchange(np.concatenate([np.array([order.epoch], dtype=np.int64), live]))
    epochs = [int(words[0]) for words in received]
    assert set(epochs) == {order.epoch}, f"block {order.ranks} entered with epochs {epochs}"
    entered = time.monotonic()
    moves = unit_moves(chain, tuple(order.before), tuple(order.after))
    kv_bytes = mover.move(range(len(layers)), moves, [words[1:] for words in received])
    for number, layer in enumerate(layers):
        layer.switch(order.after[index])
        pool.view_layer(number, order.after[index])
    # Nobody may write KV of the new layout while a peer still moves the old one.
    block.barrier()
    return TransformReport(entered - started, time.monotonic() - entered, kv_bytes)
