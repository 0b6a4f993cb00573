from __future__ import annotations

from types import SimpleNamespace

from amoeba_sglang.policy import WorkerLoad
from amoeba_sglang.router.loads import LoadBook


def snapshot(rank, timestamp, running=0, waiting=0, tokens=0):
    return SimpleNamespace(
        dp_rank=rank,
        timestamp=timestamp,
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_total_tokens=tokens,
        num_waiting_uncached_tokens=7,
    )


def test_sent_requests_count_until_the_worker_has_looked_for_them():
    now = [1.5]
    book = LoadBook(2, now=lambda: now[0])
    book.update([snapshot(0, 1.0, running=2, tokens=50)])
    book.add(0, 30)
    book.update([snapshot(0, 1.0, running=2, tokens=50)])
    assert book.loads == (WorkerLoad(2, 1, 80, 37), WorkerLoad())
    book.update([snapshot(0, 2.0, running=3, tokens=81)])
    assert book.loads[0] == WorkerLoad(3, 0, 81, 7)


def test_a_snapshot_does_not_hide_what_was_sent_after_the_worker_had_looked():
    """A step takes longer than a burst: its snapshot made the worker look idle again."""
    now = [1.5]
    book = LoadBook(2, now=lambda: now[0])
    book.add(1, 30)
    now[0] = 1.8
    book.add(1, 40)
    book.update([snapshot(1, 1.6, running=1, tokens=30)])
    assert book.loads[1] == WorkerLoad(1, 1, 70, 47)
    book.update([snapshot(1, 1.9, running=2, tokens=70)])
    assert book.loads[1] == WorkerLoad(2, 0, 70, 7)
