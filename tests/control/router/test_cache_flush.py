"""A flush reaches all workers or none, and says who is busy."""

import pytest

from amoeba_sglang.control.reports import IdleAnswer
from amoeba_sglang.control.router.cache_flush import ANSWER_SECONDS, CacheFlush
from amoeba_sglang.control.router.effects import AskIdle, Flush, Forward, RefuseControl, Send
from amoeba_sglang.control.router.events import FlushAsked, LoadsRead, PauseAsked, WeightsAsked
from amoeba_sglang.control.router.loads import Snapshot
from tests.control.router.values import LONG, WORKERS, Case

STEP_S = 0.01


class Server:
    """Workers that answer questions as `idle` says (None: not at all), and time that passes."""

    def __init__(self):
        self.idle, self.reason, self.now = [True] * WORKERS, None, 0.0
        self.flushed, self.refused, self.asked = 0, [], 0
        self.flush = CacheFlush(WORKERS)

    def start(self, timeout=None):
        self.flush.start(timeout, "payload", self.now)
        self.run(STEP_S)

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            for effect in self.flush.step(self.reason, self.now):
                self.carry_out(effect)
            self.now += STEP_S

    def carry_out(self, effect):
        if isinstance(effect, AskIdle):
            self.asked += 1
            for rank, idle in enumerate(self.idle):
                if idle is not None:
                    self.flush.take(IdleAnswer(rank=rank, number=effect.number, idle=idle))
        elif isinstance(effect, Flush):
            self.flushed += 1
        else:
            assert isinstance(effect, RefuseControl) and effect.payload == "payload"
            self.refused.append(effect.reason)


@pytest.fixture
def server():
    return Server()


def test_idle_workers_are_flushed_at_once(server):
    server.start()
    server.run(STEP_S)
    assert (server.flushed, server.refused, server.asked) == (1, [], 1)
    server.run(1.0)
    assert server.flushed == 1


def test_one_busy_worker_keeps_all_caches_and_is_named(server):
    server.idle[2] = False
    server.start()
    server.run(1.0)
    assert server.flushed == 0
    [reason] = server.refused
    assert "ranks [2] are busy" in reason


def test_what_the_router_knows_to_be_busy_is_not_asked(server):
    """It could be in a long step, and requests would wait for its answer."""
    server.reason = "3 requests wait in the router"
    server.start()
    server.run(1.0)
    assert (server.flushed, server.asked) == (0, 0)
    assert server.reason in server.refused[0]


def test_with_a_timeout_the_flush_waits_until_all_are_idle(server):
    server.idle[0] = False
    server.start(timeout=5.0)
    server.run(3.0)
    assert (server.flushed, server.refused) == (0, [])
    server.idle[0] = True
    server.run(0.5)
    assert (server.flushed, server.refused) == (1, [])


def test_a_timeout_that_ends_names_who_was_busy(server):
    server.idle[0] = server.idle[3] = False
    server.start(timeout=1.0)
    server.run(2.0)
    assert "ranks [0, 3] are busy" in server.refused[0]
    server.start()
    server.idle = [True] * WORKERS
    server.run(0.2)
    assert server.flushed == 1


def test_a_worker_that_does_not_answer_is_named_and_its_late_answer_ignored(server):
    server.idle[1] = None
    server.start()
    server.run(ANSWER_SECONDS - 2 * STEP_S)
    assert server.flush.asking
    server.run(3 * STEP_S)
    assert not server.flush.asking
    assert "ranks [1] did not answer within 1 s" in server.refused[0]
    server.start()
    server.flush.take(IdleAnswer(rank=1, number=1, idle=True))
    server.run(2.0)
    assert server.flushed == 0 and len(server.refused) == 2


def answer(case, question, *ranks, idle=True):
    effects = []
    for rank in ranks:
        effects += case.tell(IdleAnswer(rank=rank, number=question.number, idle=idle))
    return effects


def test_the_router_flushes_when_all_workers_say_that_they_are_idle():
    case = Case()
    [question] = case.tell(FlushAsked(None))
    assert isinstance(question, AskIdle)
    assert answer(case, question, 0, 1, 2) == []
    assert answer(case, question, 3) == [Flush()]
    assert case.tick(5.0) == []


def test_the_router_names_its_reasons():
    def why(case, event=None):
        case.tell(event or FlushAsked(None, "payload"))
        effects = case.tick(0.3)
        [refusal] = [one for one in effects if isinstance(one, RefuseControl)]
        assert refusal.payload == "payload"
        return refusal.reason.partition(": ")[2]

    case = Case()
    case.arrive(rank=2)
    assert why(case) == "ranks [2] are busy."
    case.transform([0, 1], 2)
    assert why(case) == "operation op is running."
    case.arrive(**LONG)
    case.finish(0, 1)
    assert why(case) == "ranks [0, 2] are busy."
    case.tell(LoadsRead([Snapshot(rank, 100.0) for rank in range(WORKERS)]))
    assert isinstance(case.tell(FlushAsked(None))[0], AskIdle)


def test_a_paused_server_is_flushed_although_requests_wait():
    case = Case()
    case.arrive(rank=2)
    assert case.tell(PauseAsked(True, "pause")) == [Forward("pause")]
    [question] = case.tell(FlushAsked(None))
    assert isinstance(question, AskIdle)
    answer(case, question, *range(WORKERS))
    case.tell(PauseAsked(False, "go on"))
    assert case.tell(FlushAsked(None)) == []


def test_nothing_reaches_a_worker_while_it_is_asked_and_all_does_behind_the_flush():
    """A worker that is idle and gets nothing stays idle."""
    case = Case()
    [question] = case.tell(FlushAsked(None))
    assert case.arrive(rid="first") == case.arrive(rid="second") == []
    assert case.abort("first") == []
    assert case.tell(WeightsAsked("read", "weights")) == []
    assert case.transform([0, 1], 2) == []
    assert case.tick(0.5) == []
    assert case.state()["operation"] is None
    effects = answer(case, question, *range(WORKERS))
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds == ["Flush", "Send", "Send", "Forward", "Forward", "Order"]


def test_a_flush_that_workers_do_not_answer_holds_requests_for_a_second_at_most():
    case = Case()
    case.tell(FlushAsked(None, "payload"))
    case.arrive()
    assert case.tick(ANSWER_SECONDS - 0.01) == []
    refusal, send = case.tick(0.02)
    assert isinstance(refusal, RefuseControl) and isinstance(send, Send)


def test_what_waits_behind_one_question_may_be_held_by_the_next():
    case = Case()
    [question] = case.tell(FlushAsked(30.0))
    case.arrive(rid="kept")
    answer(case, question, 0, 1, 2)
    assert [one.request.rid for one in answer(case, question, 3, idle=False)] == ["kept"]
    # Its worker is known to be busy now, so nobody is asked.
    assert case.tick(1.0) == []
    case.tell(LoadsRead([Snapshot(rank, 100.0) for rank in range(WORKERS)]))
    assert isinstance(case.tick(0.1)[0], AskIdle)
