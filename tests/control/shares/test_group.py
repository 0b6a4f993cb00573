"""Any history of requests and orders, served by ledgers alone: nobody waits for ever."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.shares.group import Group

requests = st.tuples(st.just("request"), st.integers(0, 3), st.integers(1, 60), st.integers(1, 60))
orders = st.tuples(
    st.just("order"), st.sampled_from([0, 2]), st.sampled_from([2, 4]), st.sampled_from([1, 2, 4])
)
waits = st.tuples(st.just("wait"), st.integers(1, 12), st.just(0), st.just(0))
aborts = st.tuples(st.just("abort"), st.integers(0, 30), st.just(0), st.just(0))
takes_back = st.tuples(st.just("take back"), st.just(0), st.just(0), st.just(0))
events = st.one_of(requests, requests, requests, orders, waits, waits, aborts, takes_back)


@settings(deadline=None, max_examples=120)
@given(st.sampled_from([1, 3]), st.lists(events, max_size=40))
def test_every_accepted_request_ends_and_every_slot_comes_home(page, history):
    group = Group(page)
    for kind, one, two, three in history:
        if kind == "request":
            group.submit(one, two, three)
        elif kind == "order":
            group.prepare(one // two * two, two, three)
        elif kind == "wait":
            for _ in range(one):
                group.step()
        elif kind == "take back" and group.phase == "prepare":
            group.abort()
        elif kind == "abort":
            open_ones = [
                (worker, request)
                for worker in group.workers
                for request in (*worker.live, *worker.waiting)
            ]
            if open_ones:
                worker, request = open_ones[one % len(open_ones)]
                worker.end(request)
    group.settle()
    for _ in range(3):
        group.step()
    for worker in group.workers:
        assert not len(worker.ledger.lent) and not len(worker.ledger.extra.leased)
        assert not worker.ledger.extra.in_use and worker.room() == 10
