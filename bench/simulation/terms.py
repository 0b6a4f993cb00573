"""What the desk of a simulated host is told of it."""

import math

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import Policy
from amoeba_sglang.control.reports import Done, TransformReport, Vote
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.effects import Order
from amoeba_sglang.control.router.events import Opened, Tick
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.terms import Terms
from amoeba_sglang.control.router.waiting_limits import WaitingLimits
from bench.simulation.mechanisms import MAX_ROWS, Mechanism


class Pooled(Capacity):
    """Instances that are no merged workers: whoever takes a request has the KV of all."""

    def request_tokens(self, degree: int, anchor: bool) -> int:
        return super().request_tokens(degree, anchor=True)


def make_terms(policy: Policy, mechanism: Mechanism, workers: int, fixed: bool) -> Terms:
    """Of a server that has measured itself. Nobody gives up waiting or is taken for stuck."""
    tokens = mechanism.tokens
    degrees = tuple(d for d in sorted(tokens) if workers % d == 0)
    grown = {degree: tokens[degree] - degree * tokens[1] for degree in degrees}
    capacity = (Pooled if fixed else Capacity)(
        tokens[1], max(tokens.values()) + 2, grown, page_tokens=0
    )
    return Terms(
        policy=policy,
        chain=DegreeChain(degrees),
        capacity=capacity,
        waiting=WaitingLimits(workers, most_in_all=10**9, most_seconds=math.inf),
        workers=workers,
        layers=1,
        initial_degree=1,
        max_rows=MAX_ROWS,
        prepare_timeout_s=math.inf,
        finish_timeout_s=math.inf,
        saved_table=mechanism.table(),
    )


def settle(terms: Terms) -> tuple[Layout, int]:
    """The layout and the base degree that a server comes to before its first request."""
    desk = Desk(terms, Layout.uniform(terms.workers, 1), 0.0)
    desk.handle(Opened(), 0.0)
    while orders := [one for one in desk.handle(Tick(), 0.0) if isinstance(one, Order)]:
        [order] = orders
        for rank in order.ranks:
            desk.handle(Vote(rank=rank, epoch=order.epoch, accept=True), 0.0)
        for rank in order.ranks:
            desk.handle(Done(rank=rank, epoch=order.epoch, report=TransformReport()), 0.0)
    return desk.operations.layout, desk.base
