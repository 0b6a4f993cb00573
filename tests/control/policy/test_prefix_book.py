from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.policy.base import RequestSize, View, WorkerLoad
from amoeba_sglang.control.policy.prefix_book import PrefixBook
from amoeba_sglang.control.policy.soonest import place_soonest
from tests.control.policy.tables import table

PREFIX = list(range(1024))


def test_a_common_beginning_is_found_in_whole_blocks():
    book = PrefixBook()
    book.add(PREFIX + [1] * 600, rank=2)
    assert book.find(PREFIX + [2] * 600) == {2: 1024}
    assert book.find(PREFIX[:600]) == {2: 512}
    assert book.find([7] + PREFIX) == {}


def test_a_rank_that_has_only_the_first_block_has_no_more():
    book = PrefixBook()
    book.add(PREFIX, rank=0)
    book.add(PREFIX[:512], rank=1)
    assert book.find(PREFIX) == {0: 1024, 1: 512}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), max_size=100))
def test_it_stays_small(prompts):
    book = PrefixBook(size=10)
    for start, rank in prompts:
        book.add(range(start, start + 1024), rank)
    assert len(book._ranks) <= 10


def test_affinity_wins_until_the_queue_costs_more_than_it_saves():
    request, instances = RequestSize(8000, 10), ((0,), (1,))

    def home(to_prefill):
        loads = (WorkerLoad(2, 0, 4000), WorkerLoad(2, 1, 4000 + to_prefill, to_prefill))
        view = View(instances, loads, 0, (0, 1), table=table(), cached={1: 7680})
        return place_soonest(request, view, table()).rank

    assert home(0) == home(4000) == 1
    assert home(12_000) == 0
