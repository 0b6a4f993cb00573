"""A few of the hostile requests of `bench.hostile` beside streams and changes of the layout."""

import asyncio

import pytest

from bench.hostile.__main__ import make_generator
from bench.hostile.run import Plan, Run
from tests.serving.servers import MODEL


@pytest.fixture
def hostile_run(pair):
    generator = make_generator(pair, 2, seed=1, model=MODEL)
    plan = Plan(generator.make(60), workers=2, clients=2, transformations=4, most_deaths=0)
    return Run(plan, pair)


def test_hostile_requests_are_refused_by_name_or_served_right(hostile_run):
    out = asyncio.run(hostile_run.go())
    assert not out.deaths, out.deaths[0].in_flight
    assert not out.failures, "\n".join(f"{f.kind}: {f.request}: {f.why}" for f in out.failures)
    assert not out.left_behind
    assert out.sent == 60
    assert not hostile_run.streams.harmed([])
    assert not hostile_run.changes_failed()
