"""A flush reaches all workers or none, and says who is busy."""

from __future__ import annotations

import pytest
from sglang.srt.managers.io_struct import FlushCacheReqInput, FlushCacheReqOutput

from amoeba_sglang.messages import IdleQuestion, WorkerReport
from amoeba_sglang.router import cache_flush
from amoeba_sglang.router.cache_flush import CacheFlush
from tests.router.stand_in import done, request, transform, vote

WORKERS = 4


class Server:
    """Workers that answer questions as `idle` says (None: not at all), and time that passes."""

    def __init__(self):
        self.idle, self.reason, self.now = [True] * WORKERS, None, 0.0
        self.flushed, self.answers, self.asked, self.due = 0, [], 0, []
        self.flush = CacheFlush(
            WORKERS, self.send, self.receive, self.answers.append,
            lambda paused: None if paused else self.reason, lambda: self.now,
        )  # fmt: skip

    def send(self, message):
        if isinstance(message, IdleQuestion):
            self.asked += 1
            for rank, idle in enumerate(self.idle):
                if idle is not None:
                    body = {"number": message.number, "idle": idle}
                    self.due.append(WorkerReport(kind="idle", rank=rank, body=body))
        else:
            assert isinstance(message, FlushCacheReqInput)
            self.flushed += 1

    def receive(self, milliseconds):
        self.now += milliseconds / 1000
        if self.due:
            self.flush.take(self.due.pop(0))

    def start(self, timeout=None):
        self.flush.start(FlushCacheReqInput(timeout_s=timeout))

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            self.flush.tick()


@pytest.fixture
def server():
    return Server()


def test_idle_workers_are_flushed_at_once(server):
    server.start()
    assert (server.flushed, server.answers, server.asked) == (1, [], 1)
    server.run(1.0)
    assert server.flushed == 1


def test_one_busy_worker_keeps_all_caches_and_is_named(server):
    server.idle[2] = False
    server.start()
    server.run(1.0)
    assert server.flushed == 0
    assert len(server.answers) == WORKERS
    assert not any(answer.success for answer in server.answers)
    assert "ranks [2] are busy" in server.answers[0].message


def test_what_the_router_knows_to_be_busy_is_not_asked(server):
    """It could be in a long step, and requests would wait for its answer."""
    server.reason = "3 requests wait in the router"
    server.start()
    server.run(1.0)
    assert (server.flushed, server.asked) == (0, 0)
    assert server.reason in server.answers[0].message


def test_with_a_timeout_the_flush_waits_until_all_are_idle(server):
    server.idle[0] = False
    server.start(timeout=5.0)
    server.run(3.0)
    assert (server.flushed, server.answers) == (0, [])
    server.idle[0] = True
    server.run(0.5)
    assert (server.flushed, server.answers) == (1, [])


def test_a_timeout_that_ends_names_who_was_busy(server):
    server.idle[0] = server.idle[3] = False
    server.start(timeout=1.0)
    server.run(2.0)
    assert "ranks [0, 3] are busy" in server.answers[0].message
    server.start()
    server.idle = [True] * WORKERS
    server.run(0.2)
    assert server.flushed == 1


def test_a_worker_that_does_not_answer_is_named_and_its_late_answer_ignored(server):
    server.idle[1] = None
    server.start()
    before = server.now
    server.run(2.0)
    assert "ranks [1] did not answer within 1 s" in server.answers[0].message
    assert before <= cache_flush._ANSWER_SECONDS + 0.1
    late = WorkerReport(kind="idle", rank=1, body={"number": 1, "idle": True})
    server.flush.take(late)
    server.answers.clear()
    server.start()
    server.run(2.0)
    assert server.flushed == 0


def test_paused_workers_are_flushed_although_requests_wait(server):
    server.reason, server.flush.paused = "ranks [0] are busy", True
    server.start()
    assert server.flushed == 1


def flushes(router):
    return [m for _, m in router.to_workers if isinstance(m, FlushCacheReqInput)]


def test_the_router_names_its_reasons(router):
    assert router.why_busy(False) is None
    router.place(request(rank=2))
    assert router.why_busy(False) == "ranks [2] are busy"
    assert router.why_busy(True) is None
    transform(router, [0, 1], 2)
    assert router.why_busy(True) == "operation op is running"
    router.place(request(prompt=120, output=30))
    vote(router, 0, 1)
    done(router, 0, 1)
    assert router.why_busy(False) == "ranks [0, 2] are busy"


def test_the_router_flushes_when_all_workers_say_that_they_are_idle(router):
    router.init_dispatcher()
    send = router.send_control_message

    def answered(message):
        send(message)
        if isinstance(message, IdleQuestion):
            for rank in range(WORKERS):
                body = {"number": message.number, "idle": True}
                router.reports.append(WorkerReport(kind="idle", rank=rank, body=body))

    router.send_control_message = answered
    router._request_dispatcher(FlushCacheReqInput())
    assert len(flushes(router)) == WORKERS
    assert not [one for one in router.front_end if isinstance(one, FlushCacheReqOutput)]
