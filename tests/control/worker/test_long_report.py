from amoeba_sglang.control.reports import LongRequestsHere
from amoeba_sglang.control.worker.long_report import LongReport


def here(*rids, ended=()):
    return LongRequestsHere(rank=0, request_ids=list(rids), ended=list(ended))


def test_only_changes_are_reported():
    report = LongReport()
    assert not report.due
    report.arrive("a")
    assert report.due
    assert report.next(0, ["a"]) == here("a")
    assert report.due
    assert report.next(0, ["a"]) is None
    assert report.next(0, []) == here()
    assert not report.due


def test_one_that_has_come_and_gone_is_named():
    """A request that was refused at once blocked the router's rules for 30 s."""
    report = LongReport()
    report.arrive("gone")
    assert report.next(0, []) == here(ended=["gone"])
    assert not report.due
    report.arrive("stays")
    report.arrive("gone again")
    expected = here("stays", ended=["gone again"])
    assert report.next(0, ["stays", "stays"]) == expected
    assert report.next(0, ["stays"]) is None
