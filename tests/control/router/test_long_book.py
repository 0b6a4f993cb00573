"""Which long requests live where, against a book that is kept by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.router.long_book import UNSEEN_S, LongBook


def test_a_request_counts_from_its_sending_to_its_worker_s_last_word():
    book = LongBook(2, 0.0)
    book.send(1, "a", 150, 1.0)
    assert book.counts == (0, 1) and [one[:3] for one in book.living()] == [(1, "a", 150)]
    book.report(1, ["a"], [], 2.0)
    assert book.counts == (0, 1) and book.quiet_since == (0.0, 0.0)
    book.report(1, [], [], 3.0)
    assert book.counts == (0, 0) and list(book.living()) == []
    assert book.quiet_since == (0.0, 3.0)


def test_one_that_came_and_went_between_two_looks_is_gone():
    book = LongBook(1, 0.0)
    book.send(0, "a", 150, 1.0)
    book.report(0, [], ["a"], 2.0)
    assert book.counts == (0,) and book.quiet_since == (2.0,)


def test_a_report_does_not_end_what_the_worker_has_not_heard_of_yet():
    book = LongBook(1, 0.0)
    book.send(0, "a", 150, 1.0)
    book.send(0, "b", 160, 1.5)
    book.report(0, ["a"], [], 2.0)
    assert book.counts == (2,)
    assert [one[:3] for one in book.living()] == [(0, "a", 150), (0, "b", 160)]


def test_an_aborted_one_needs_nothing_but_is_there_until_its_worker_says_so():
    book = LongBook(1, 0.0)
    book.send(0, "a", 150, 1.0)
    book.abort("a".__eq__)
    assert list(book.living()) == [] and book.counts == (1,)


def test_what_no_worker_ever_named_is_believed_lost():
    book = LongBook(1, 0.0)
    book.send(0, "a", 150, 1.0)
    book.forget_unseen(1.0 + UNSEEN_S)
    assert book.counts == (1,)
    book.forget_unseen(1.5 + UNSEEN_S)
    assert book.counts == (0,) and book.quiet_since == (1.5 + UNSEEN_S,)


def test_a_new_instance_is_quiet_from_its_start():
    book = LongBook(4, 0.0)
    book.start_layout([2, 3], 7.0)
    assert book.quiet_since == (0.0, 0.0, 7.0, 7.0)


EVENT = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 9)),
    st.tuples(st.just("report"), st.sets(st.integers(0, 9))),
    st.tuples(st.just("abort"), st.integers(0, 9)),
)


@settings(max_examples=100)
@given(st.lists(EVENT, max_size=25))
def test_the_book_of_one_worker(events):
    book, sent, seen, needing = LongBook(1, 0.0), set(), set(), set()
    for now, (kind, what) in enumerate(events, 1):
        if kind == "send":
            book.send(0, str(what), what, now)
            sent.add(what)
            needing.add(what)
        elif kind == "report":
            book.report(0, sorted(map(str, what)), [], now)
            sent, seen = sent - what, set(what)
            needing &= sent | seen
        else:
            book.abort(str(what).__eq__)
            needing.discard(what)
        assert book.counts == (len(sent | seen),)
        assert {one.tokens for one in book.living()} == needing
