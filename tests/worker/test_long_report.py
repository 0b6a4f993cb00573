from __future__ import annotations

from amoeba_sglang.worker.long_report import LongReport


def test_only_changes_are_reported():
    report = LongReport()
    assert not report.due
    report.arrive("a")
    assert report.due
    assert report.next(["a"]) == {"request_ids": ["a"], "ended": []}
    assert report.due
    assert report.next(["a"]) is None
    assert report.next([]) == {"request_ids": [], "ended": []}
    assert not report.due


def test_one_that_has_come_and_gone_is_named():
    """A request that was refused at once blocked the router's rules for 30 s."""
    report = LongReport()
    report.arrive("gone")
    assert report.next([]) == {"request_ids": [], "ended": ["gone"]}
    assert not report.due
    report.arrive("stays")
    report.arrive("gone again")
    body = {"request_ids": ["stays"], "ended": ["gone again"]}
    assert report.next(["stays", "stays"]) == body
    assert report.next(["stays"]) is None
