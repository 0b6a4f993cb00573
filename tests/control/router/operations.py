"""Transformations of four workers, step by step or to their end."""

import msgspec

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.reports import Done, TransformReport, Vote
from amoeba_sglang.control.router.operation import Operations
from amoeba_sglang.control.router.transform_request import TransformRequest
from tests.control.router.values import CHAIN

REPORT = TransformReport(
    seconds=2.0,
    lockstep_seconds=0.1,
    step_seconds=0.05,
    longest_step_seconds=0.2,
    moves=3,
    pause_seconds=0.3,
    settle_seconds=0.1,
    copy_seconds=0.2,
    kv_bytes=10,
    weight_bytes=1,
    pace="a few",
)


def make(degree: int = 1) -> Operations:
    return Operations(CHAIN, Layout.uniform(4, degree), 30, 20.0, 120.0)


def request(ranks, degree, operation_id="op", wait=True) -> TransformRequest:
    return TransformRequest(tuple(ranks), degree, operation_id, wait)


def vote(operations: Operations, rank, epoch=1, reason="", now=0.0):
    """A vote for the order, or with a reason against it."""
    return operations.vote(Vote(rank=rank, epoch=epoch, accept=not reason, reason=reason), now)


def done(operations: Operations, rank, epoch=1, now=0.0, **fields):
    """A report like REPORT but for some fields."""
    report = msgspec.structs.replace(REPORT, **fields)
    return operations.done(Done(rank=rank, epoch=epoch, report=report), now)


def perform(operations: Operations, ranks, degree, operation_id="op", now=0.0):
    """Run one operation to its end; returns all effects and the epoch."""
    effects = operations.submit(request(ranks, degree, operation_id), "w", now)
    epoch = effects[0].epoch
    for rank in ranks:
        effects += vote(operations, rank, epoch, now=now + 1)
    for rank in ranks:
        effects += done(operations, rank, epoch, now=now + 3)
    return effects, epoch


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]
