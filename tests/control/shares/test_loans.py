"""Who lends what to whom, and who goes first."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.shares.claims import Claim, Claims
from amoeba_sglang.control.shares.seat import Seat
from tests.control.shares.group import Group
from tests.control.shares.worker import CHAIN, GROWN, OWN


def merged(degree, page=1):
    group = Group(page)
    group.merge(0, degree)
    return group


def lent(group):
    return [len(worker.ledger.lent) for worker in group.workers]


def steps(group, count):
    for _ in range(count):
        group.step()


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("lacks", [1, 2, 5, 8])
def test_peers_lend_what_is_lacking_and_no_more(degree, lacks):
    """The anchor asked a second time before the first loan had come, and got it twice."""
    group = merged(degree)
    # It waits for its memory only, so it is the loan that lets it in.
    group.workers[0].full = True
    group.submit(0, OWN + GROWN[degree] + lacks - 1, 1)
    for _ in range(6):
        group.step()
        assert sum(lent(group)) <= lacks
    assert sum(lent(group)) == lacks


def test_a_lender_stays_awake_until_what_it_lends_has_come_home():
    """The request that alone made its anchor ask was aborted a round before the slots came. All
    fell asleep, and the lender's idle check missed them."""
    group = merged(2)
    anchor, lender = group.workers[:2]
    group.submit(0, OWN + GROWN[2] + 5, 1)
    steps(group, 1)
    anchor.waiting.clear()
    assert lender.ledger.has_news(lender.claims(), lender)
    steps(group, 1)
    assert sum(lent(group)) > 0
    assert anchor.ledger.has_news(anchor.claims(), anchor)
    steps(group, 1)
    for worker in (anchor, lender):
        assert not len(worker.ledger.lent)
        assert not worker.ledger.has_news(worker.claims(), worker)


def test_a_live_long_request_lacks_as_one_that_waits():
    """Only one that waited did: after a change of layouts one ran out beside an idle peer."""
    group = merged(2)
    anchor = group.workers[0]
    request = group.submit(0, 4, OWN + GROWN[2] + 2)
    steps(group, 1)
    assert request.state == "waiting" and sum(lent(group)) == 0
    steps(group, 4)
    assert request.state == "live"
    # As if the layout before had promised it: it lives, and no slot is at hand.
    anchor.ledger.extra.end_leases(anchor.ledger.extra.free_leased)
    group.workers[1].put(group.workers[1].ledger.lent)
    group.workers[1].ledger.lent = group.workers[1].ledger.lent[:0]
    group.settle()
    assert not request.retracted


def test_what_a_live_request_lacks_goes_before_all_who_wait():
    """Else a lender's request would wait for what the live one has, and the live one for it."""
    group = merged(2)
    waits = Claim("waits", 0, 1, 8, long=False)
    group.workers[1].claims = lambda: Claims(1, waiting=[waits])
    for worker in group.workers[:2]:
        worker.plan = lambda: None
    group.workers[1].free = group.workers[1].free[3:]
    group.check = lambda: None
    steps(group, 3)
    claim = Claim("lives", 0, 1, OWN + GROWN[2] + 4, long=True)
    group.workers[0].claims = lambda: Claims(1, waiting=[claim])
    steps(group, 4)
    assert not sum(lent(group))
    group.workers[0].claims = lambda: Claims(1, live=[claim])
    steps(group, 4)
    assert sum(lent(group)) == 4


def test_leases_that_nobody_wants_come_home_while_a_long_request_lives():
    """They did when none lived and none was in use: with one long request after another never."""
    group = merged(2)
    first = group.submit(0, 20, 4)
    steps(group, 4)
    assert first.state == "live" and sum(lent(group)) == 8
    second = group.submit(0, 3, 9)
    while second.state == "waiting":
        group.step()
    steps(group, 2)
    assert not sum(lent(group)) and second.state == "live"
    short = group.submit(1, 1, 7)
    steps(group, 2)
    assert short.state == "live" and second.state == "live"


def test_a_short_request_of_a_lender_ends_though_its_slots_were_lent():
    """It was admitted by an estimate, found its slots lent and was aborted."""
    group = merged(2)
    long = group.submit(0, 20, 4)
    steps(group, 4)
    assert long.state == "live" and sum(lent(group)) == 8
    short = group.submit(1, 1, 7)
    for _ in range(3):
        # Others come that would borrow for ever.
        group.submit(0, 12, 11)
    group.settle()
    assert short.state == "done"


def test_who_waits_longer_for_slots_of_a_lender_goes_first():
    group = merged(2)
    first = group.submit(0, 20, 4)
    steps(group, 4)
    assert first.state == "live"
    short, second = group.submit(1, 1, 7), None
    steps(group, 1)
    second = group.submit(0, 22, 2)
    while short.state == "waiting":
        group.step()
        assert second.state == "waiting"
    later = group.submit(1, 1, 7)
    while second.state == "waiting":
        group.step()
        assert later.state == "waiting"
    group.settle()


def test_a_lender_keeps_what_its_live_requests_may_still_take():
    group = merged(2)
    running = group.submit(1, 1, 7)
    steps(group, 1)
    long = group.submit(0, 23, 1)
    steps(group, 4)
    assert running.state == "live"
    assert lent(group)[1] <= OWN - 8
    group.settle()
    assert long.state == "done" and not running.retracted


def test_short_requests_ask_for_nothing():
    group = merged(2)
    for _ in range(5):
        group.submit(0, 1, 7)
    for _ in range(30):
        group.step()
        assert not sum(lent(group))


@example(1, [OWN, 0, 0])
@example(1, [0, OWN, OWN])
@given(st.integers(0, 30), st.lists(st.integers(0, OWN), min_size=3, max_size=3))
@settings(deadline=None, max_examples=25)
def test_lenders_of_different_wealth_lend_together_what_they_can(lacks, taken):
    group = merged(4)
    for index, slots in enumerate(taken, start=1):
        worker = group.workers[index]
        worker.free = worker.free[slots:]
        group.check = lambda: None
    anchor = group.workers[0]
    anchor.full = True
    claim = Claim("long", 0, 1, OWN + GROWN[4] + lacks, long=True)
    anchor.claims = lambda: Claims(1, waiting=[claim])
    anchor.plan = lambda: None
    for _ in range(40):
        group.step()
    assert sum(lent(group)) == min(lacks, sum(OWN - slots for slots in taken))


def test_growth_is_told_once_whoever_has_grown():
    """A waiting request was not looked at again until a running one had ended."""
    group = merged(2)
    lender = group.workers[1]
    anchor = group.workers[0].ledger
    for ledger in (anchor, lender.ledger):
        assert ledger.take_growth() and not ledger.take_growth()
    grew = {"anchor": 0, "lender": 0}
    for worker in group.workers[:2]:
        worker.plan = lambda: None
    long = Claim("long", 0, 1, OWN + GROWN[2] + 3, long=True)
    group.workers[0].claims = lambda: Claims(1, waiting=[long])
    for count in range(8):
        if count == 4:
            group.workers[0].claims = lambda: Claims(1)
        group.step()
        grew["anchor"] += anchor.take_growth()
        grew["lender"] += lender.ledger.take_growth()
    assert grew == {"anchor": 1, "lender": 1}
    anchor.share(Seat(CHAIN, 2, 0), GROWN[2])
    assert anchor.take_growth() and not anchor.take_growth()
