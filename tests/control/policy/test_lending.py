"""How many workers long requests may have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.layout.partition import Layout
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy.base import LongRequest, Scene, WorkerLoad
from amoeba_sglang.control.policy.lending import allow_lending
from amoeba_sglang.control.policy.outlook import Outlook, expect_usual_traffic, foresee
from amoeba_sglang.control.policy.setting import SETTING
from amoeba_sglang.control.policy.throughput import RequestClass
from tests.control.policy.tables import table

WORKERS = 8
REQUEST = LongRequest("a", 150_000, 2, since=0.0, prompt_tokens=100_000)
TABLE = table()


def scene(backlog=1, now=1.0, known=True):
    return Scene(
        DegreeChain((1, 2, 4, 8)), Layout.uniform(WORKERS, 1), 1, (WorkerLoad(),) * WORKERS,
        (0,) * WORKERS, (0.0,) * WORKERS, (REQUEST,), backlog, frozenset(), {}, now,
        table=TABLE if known else None,
    )  # fmt: skip


def lent(degree=2, outlook=None, **fields):
    return allow_lending(REQUEST, degree, scene(**fields), SETTING, outlook)


@pytest.mark.parametrize(
    ("degree", "backlog", "expected"), [(2, 1, 4), (2, 3, 6), (8, 1, 8), (4, 1, 4)]
)
def test_before_step_costs_are_known_a_share_is_lent(degree, backlog, expected):
    assert lent(degree, backlog=backlog, known=False) == expected
    assert lent(degree, backlog=backlog) == expected, "nor while the outlook is not"


def test_nobody_waits_for_ever():
    assert lent(now=SETTING.patience_s - 0.1, known=False) < WORKERS
    assert lent(now=SETTING.patience_s) == WORKERS


def test_what_short_requests_leave_free_is_lent():
    assert lent(outlook=Outlook(0.9 * 3, 1.0, 10.0)) == 4
    assert lent(outlook=Outlook(0.0, 1.0, 10.0)) == WORKERS
    # A busy server lends by the share of the work, and never less than one instance.
    assert lent(outlook=Outlook(0.9 * 8, 8.0, 10.0)) == 4
    assert lent(outlook=Outlook(0.9 * 80, 1.0, 1.0)) == 2


@given(
    st.sampled_from([2, 4, 8]), st.integers(1, 50), st.floats(0, 20), st.floats(0, 20),
    st.floats(0, 100),
)  # fmt: skip
def test_lent_are_always_whole_instances_of_all_workers_at_most(degree, backlog, short, long, work):
    found = lent(degree, outlook=Outlook(short, long, work), backlog=backlog)
    assert degree <= found <= WORKERS and found % degree == 0
    more = lent(degree, outlook=Outlook(short, long, work), backlog=backlog + 5)
    assert more >= found


def test_an_outlook_splits_traffic_at_what_the_base_degree_holds():
    short, long = RequestClass(2.0, 1, 1000.0, 100.0), RequestClass(0.05, 4, 400_000.0, 100.0)
    both = foresee(TABLE, 1, (short, long), SETTING.token_s)
    assert both.short == foresee(TABLE, 1, (short,), SETTING.token_s).workers
    assert both.long == foresee(TABLE, 1, (long,), SETTING.token_s).workers > 0
    assert both.workers == both.short + both.long
    assert both.long_work_s == pytest.approx(both.long / 0.05)
    # At a base that holds both nothing is long.
    high = foresee(TABLE, 4, (short, long), SETTING.token_s)
    assert high.long == high.long_work_s == 0.0 and high.short > 0
    twice = replace(short, rate=4.0)
    assert foresee(TABLE, 1, (twice,), 0.1).short == pytest.approx(2 * both.short)


@pytest.mark.parametrize("tokens, degree", [(1280, 1), (1279, 2), (300, 4)])
def test_usual_traffic_is_served_where_it_fits(tokens, degree):
    degrees = {d: replace(TABLE.degrees[d], kv_tokens=tokens * d) for d in (1, 2, 4)}
    [chats] = expect_usual_traffic(replace(TABLE, degrees=degrees))
    assert chats.degree == degree
    assert foresee(TABLE, 1, (chats,), 0.1).workers > 0
