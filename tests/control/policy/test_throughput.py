import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.policy.outlook import foresee
from amoeba_sglang.control.policy.throughput import RequestClass, StepCost, ThroughputTable
from amoeba_sglang.errors import ConfigError
from tests.control.policy.tables import table

CLASSES = st.lists(
    st.builds(
        RequestClass, st.floats(0.01, 10), st.just(1), st.floats(10, 20_000), st.floats(1, 2000)
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


def test_a_table_survives_json():
    made = table()
    assert ThroughputTable.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "degrees is missing"),
        ("not json", "cannot be read"),
        (json.dumps({"degrees": {"1": {}}, "source": ""}), "cost is missing"),
    ],
)
def test_a_bad_table_names_what_is_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        ThroughputTable.from_json(text)


def test_a_prompt_costs_its_tokens_and_what_they_attend_to():
    cost = StepCost(9.0, 9.0, prefill=2.0, context=9.0, attention=0.5)
    assert cost.prompt_seconds(10) == 10 * 2.0 + 0.5 * 10 * 5
    assert cost.prompt_seconds(10, cached_tokens=4) == 6 * 2.0 + 0.5 * 6 * 7
    assert cost.prompt_seconds(10, cached_tokens=20) == 0


@given(CLASSES, st.sampled_from((1, 2, 4, 8)))
def test_work_adds_up_to_the_rate(classes, degree):
    """Workers that are kept busy at the saturated rate are exactly all."""
    made = table()
    full = made.saturate(degree, classes, most_token_s=1.0)
    cost, total, work = made.degrees[degree].cost, sum(one.rate for one in classes), 0.0
    for one in classes:
        decode_s = one.output_tokens * full.step_s / full.rows
        work += one.rate / total * degree * (cost.prompt_seconds(one.prompt_tokens) + decode_s)
    assert work * full.rate == pytest.approx(1.0)


def test_batches_are_not_filled_beyond_the_token_target():
    classes, made = [RequestClass(1.0, 1, 1000, 200)], table()
    free, bound = made.saturate(1, classes, 10.0), made.saturate(1, classes, 0.04)
    assert bound.rows < free.rows and bound.rate < free.rate


def test_the_outlook_separates_what_the_base_degree_holds():
    made = table()
    traffic = (RequestClass(10.0, 1, 1000, 200), RequestClass(0.01, 2, 120_000, 300))
    both = foresee(made, 1, traffic, 0.1)
    assert both.short == pytest.approx(foresee(made, 1, traffic[:1], 0.1).short)
    assert both.long_work_s == pytest.approx(both.long / 0.01)
    merged = foresee(made, 2, traffic, 0.1)
    assert (merged.long, merged.long_work_s) == (0.0, 0.0)


def test_the_base_degree_of_fewest_workers_depends_on_the_loss_and_on_the_kv():
    traffic = (RequestClass(10.0, 1, 1000, 250),)

    def best(**made):
        costs = table(**made)
        return min(costs.ordered, key=lambda base: foresee(costs, base, traffic, 0.1).workers)

    assert best(loss=1.5) == 1
    assert best(loss=1.05, tokens=(20_000, 250_000, 700_000, 1_600_000)) > 1
