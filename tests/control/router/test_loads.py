from amoeba_sglang.control.policy.base import WorkerLoad
from amoeba_sglang.control.router.loads import LoadBook, Snapshot


def test_sent_requests_count_until_the_worker_has_looked_for_them():
    book, looked = LoadBook(2), Snapshot(0, 1.0, running=2, tokens=50, to_prefill=7)
    book.update([looked])
    book.add(0, 30, 1.5)
    book.update([looked])
    assert book.loads == (WorkerLoad(2, 1, 80, 37), WorkerLoad())
    book.update([Snapshot(0, 2.0, running=3, tokens=81, to_prefill=7)])
    assert book.loads[0] == WorkerLoad(3, 0, 81, 7)
    assert [one.running for one in book.snapshots] == [3, 0]


def test_a_snapshot_does_not_hide_what_was_sent_after_the_worker_had_looked():
    """A step takes longer than a burst: its snapshot made the worker look idle again."""
    book = LoadBook(2)
    book.add(1, 30, 1.5)
    book.add(1, 40, 1.8)
    book.update([Snapshot(1, 1.6, running=1, tokens=30, to_prefill=7)])
    assert book.loads[1] == WorkerLoad(1, 1, 70, 47)
    book.update([Snapshot(1, 1.9, running=2, tokens=70, to_prefill=7)])
    assert book.loads[1] == WorkerLoad(2, 0, 70, 7)
