"""Transformations of four workers, step by step or to their end."""

from __future__ import annotations

from amoeba_sglang.layout.partition import Layout
from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.router.operation import Operations
from amoeba_sglang.router.transform_request import TransformRequest

CHAIN = DegreeChain((1, 2, 4))
REPORT = {
    "error": "",
    "lockstep_seconds": 0.1,
    "longest_step_seconds": 0.2,
    "step_seconds": 0.05,
    "moves": 3,
    "pause_seconds": 0.3,
    "settle_seconds": 0.1,
    "copy_seconds": 0.2,
    "pace": "a few",
    "bytes_moved": {"kv": 10, "weights": 1},
}


def make(degree: int = 1) -> Operations:
    return Operations(CHAIN, Layout.uniform(4, degree), 30, 20.0, 120.0)


def request(ranks, degree, operation_id="op", wait=True) -> TransformRequest:
    return TransformRequest(tuple(ranks), degree, operation_id, wait)


def perform(operations: Operations, ranks, degree, operation_id="op", now=0.0):
    """Run one operation to its end; returns all effects and the epoch."""
    effects = operations.submit(request(ranks, degree, operation_id), "w", now)
    epoch = effects[0].epoch
    for rank in ranks:
        effects += operations.vote(rank, epoch, True, "", now + 1)
    for rank in ranks:
        effects += operations.done(rank, epoch, REPORT, now + 3)
    return effects, epoch


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]
