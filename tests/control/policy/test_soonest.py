from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.policy.base import RequestSize, View, WorkerLoad
from amoeba_sglang.control.policy.soonest import place_soonest
from tests.control.policy.tables import table

TABLE = table()
LOADS = st.builds(
    WorkerLoad, st.integers(0, 90), st.integers(0, 9), st.integers(0, 90_000), st.just(0)
)
SHORT = RequestSize(1000, 200)


def place(view, request=SHORT):
    return place_soonest(request, view, TABLE).rank


@given(st.tuples(LOADS, LOADS, LOADS, LOADS), st.sets(st.integers(0, 3), min_size=1))
def test_the_home_is_able_and_a_worker_with_less_of_everything_is_preferred(loads, able):
    view = View(((0,), (1,), (2,), (3,)), loads, 0, tuple(sorted(able)), table=TABLE)
    rank = place(view)
    assert rank in able
    mine = loads[rank]
    for other in able:
        load = loads[other]
        assert not (load.running < mine.running and load.tokens < mine.tokens)


def test_a_short_request_stays_away_from_the_worker_of_a_long_prompt_but_not_from_its_peer():
    loads = [WorkerLoad(20, 0, 30_000)] * 4
    loads[0] = WorkerLoad(1, 0, 120_000, 110_000)
    loads[1] = WorkerLoad()
    view = View(((0, 1), (2,), (3,)), tuple(loads), 0, (0, 1, 2, 3), table=TABLE)
    assert place(view) != 0
    full = tuple(replace(load, tokens=79_900) for load in loads[2:])
    assert place(replace(view, loads=(*loads[:2], *full))) == 1


def test_a_request_goes_where_there_is_kv_for_it():
    loads = (WorkerLoad(10, 0, 79_500), WorkerLoad(40, 0, 60_000))
    assert place(View(((0,), (1,)), loads, 0, (0, 1), table=TABLE)) == 1
