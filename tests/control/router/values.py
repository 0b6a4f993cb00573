"""Builders of what a desk of four workers is told, and a desk that keeps what it says.

Workers have 100 tokens; the anchor of two has 60 more beside those of both, of four 200.
"""

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.policy.base import Policy
from amoeba_sglang.control.reports import Done, LongRequestsHere, TransformReport, Vote
from amoeba_sglang.control.router.desk import Desk
from amoeba_sglang.control.router.effects import Answer, Order, Refuse, Send
from amoeba_sglang.control.router.events import (
    Abort,
    Arrival,
    Opened,
    StateAsked,
    Tick,
    TransformAsked,
)
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.request import Request
from amoeba_sglang.control.router.terms import Terms
from amoeba_sglang.control.router.transform_request import TransformRequest
from amoeba_sglang.control.router.waiting_limits import WaitingLimits

CHAIN = DegreeChain((1, 2, 4))
CAPACITY = Capacity(
    own_tokens=100, context_tokens=1000, grown_tokens={1: 0, 2: 60, 4: 200}, page_tokens=1
)
WORKERS = 4
# Two workers hold it, one does not.
LONG = {"prompt": 120, "output": 30}
# Places in turn, and changes the layout only when asked to.
IN_TURN = Policy(POLICIES["round_robin"].place)


def make_terms(policy=IN_TURN, **fields) -> Terms:
    known = {
        "policy": policy,
        "chain": CHAIN,
        "capacity": CAPACITY,
        "waiting": WaitingLimits(WORKERS),
        "workers": WORKERS,
        "layers": 30,
        "initial_degree": 1,
        "max_rows": 64,
        "prepare_timeout_s": 20.0,
        "finish_timeout_s": 120.0,
    }
    return Terms(**{**known, **fields})


def request(prompt=10, output=4, rank=None, rid="r", token_ids=()) -> Request:
    return Request(rid, prompt, output, rank, token_ids)


class Case:
    """A desk that is told things at `now`; `said`: all of its effects so far."""

    def __init__(self, policy=IN_TURN, layout=(1,) * WORKERS, **terms):
        self.now, self.said = 0.0, []
        self.desk = Desk(make_terms(policy, **terms), Layout(layout), self.now)
        self.tell(Opened())

    @property
    def degrees(self):
        return self.desk.operations.layout.degrees

    @property
    def running(self):
        return self.desk.operations.running

    def tell(self, event):
        effects = self.desk.handle(event, self.now)
        self.said += effects
        return effects

    def tick(self, seconds=0.0):
        self.now += seconds
        return self.tell(Tick())

    def arrive(self, **fields):
        return self.tell(Arrival(request(**fields)))

    def abort(self, rid="", everything=False):
        return self.tell(Abort(rid, everything, payload="an abort"))

    def transform(self, ranks, degree, operation_id="op", waiter="w"):
        change = TransformRequest(tuple(ranks), degree, operation_id)
        return self.tell(TransformAsked(waiter, change))

    def vote(self, *ranks, epoch=1):
        for rank in ranks:
            self.tell(Vote(rank=rank, epoch=epoch, accept=True))

    def refuse(self, rank, epoch=1, reason="full"):
        return self.tell(Vote(rank=rank, epoch=epoch, accept=False, reason=reason))

    def done(self, *ranks, epoch=1, error=""):
        for rank in ranks:
            self.tell(Done(rank=rank, epoch=epoch, report=TransformReport(moves=1, error=error)))

    def finish(self, *ranks, epoch=1):
        """The workers carry out the order that runs."""
        self.vote(*ranks, epoch=epoch)
        self.done(*ranks, epoch=epoch)

    def longs_here(self, rank, *rids, ended=()):
        return self.tell(LongRequestsHere(rank=rank, request_ids=list(rids), ended=list(ended)))

    def state(self):
        [answer] = self.tell(StateAsked("state"))
        self.said.pop()
        return answer.body

    def homes(self, rid="r"):
        return [send.rank for send in self.found(Send) if send.request.rid == rid]

    def refusals(self):
        """(id, status, reason) of every request that was refused."""
        return [(one.request.rid, one.status, one.reason) for one in self.found(Refuse)]

    def answers(self):
        return [(one.waiter, one.status) for one in self.found(Answer)]

    def orders(self):
        return [(one.phase, one.ranks, one.after[0]) for one in self.found(Order)]

    def found(self, kind):
        return [one for one in self.said if isinstance(one, kind)]
