import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.replay_metrics import Objective, Outcome, spread, summarise
from bench.trace import TraceRequest

OBJECTIVE = Objective(ttft=1.0, tpot=0.1, long_ttft=None, long_tokens=1000)


def done(arrival, ttft, tpot, prompt=10, output=11, **fields):
    request = TraceRequest(arrival, prompt, output)
    first = arrival + ttft
    return Outcome(
        request, "done", "", arrival, first, first + tpot * (output - 1), prompt, output, **fields
    )


def test_throughput_counts_completed_tokens_until_the_last_one():
    outcomes = [
        done(0, 0.5, 0.05), done(1, 0.5, 0.15), done(2, 2.0, 0.05), done(3, 6.0, 0.1, prompt=2000),
        Outcome(TraceRequest(4, 10, 11), "rejected", "400: too long"),
        Outcome(TraceRequest(5, 10, 11), "failed", "503: gone"),
    ]  # fmt: skip
    figures = summarise(outcomes, OBJECTIVE)
    assert figures["requests"] == {
        "sent": 6, "long": 1, "done": 4, "rejected": 1, "failed": 1
    }  # fmt: skip
    assert figures["seconds"] == pytest.approx(3 + 6 + 1)
    assert figures["completed"]["tokens_per_s"] == pytest.approx((3 * 21 + 2011) / 10)
    # The second misses the TPOT, the third the TTFT; long requests have no bound on theirs.
    assert figures["goodput"]["requests_per_s"] == pytest.approx(0.2)
    assert figures["goodput"]["share"] == pytest.approx(2 / 6)
    assert figures["errors"] == {"400: too long": 1, "503: gone": 1}
    assert figures["ttft_s"]["short"]["max"] == pytest.approx(2.0)
    assert figures["ttft_s"]["long"]["p50"] == pytest.approx(6.0)
    assert not figures["served_in_time"] and not figures["slo_met"]


def test_a_late_send_counts_as_waiting():
    outcome = done(10, 0.5, 0.01)
    outcome.sent = 10.4
    assert outcome.ttft == pytest.approx(0.5)
    assert summarise([outcome], OBJECTIVE)["sent_late_s"]["max"] == pytest.approx(0.4)


def test_a_workload_is_served_in_time_until_the_grace_ends():
    quick, slow = done(100, 0.5, 0.01), done(100, 66.0, 0.01)
    assert summarise([quick], OBJECTIVE)["served_in_time"]
    assert summarise([quick], OBJECTIVE)["slo_met"]
    assert not summarise([slow], OBJECTIVE)["served_in_time"]


def test_other_lengths_and_cached_tokens_are_counted():
    wrong = done(0, 0.1, 0.01, cached_tokens=4)
    wrong.prompt_tokens, wrong.completion_tokens = 9, 3
    figures = summarise([wrong, done(0, 0.1, 0.01)], OBJECTIVE)
    assert figures["other_length"] == {"prompt": 1, "output": 1}
    assert figures["prompt_tokens"] == {"asked": 20, "counted": 19, "cached": 4}


def test_a_replay_without_a_single_answer_has_figures():
    figures = summarise([Outcome(TraceRequest(0, 1, 1), "failed", "refused")], OBJECTIVE)
    assert figures["completed"]["tokens_per_s"] == 0
    assert figures["ttft_s"]["all"] == {}
    assert not figures["slo_met"]


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0.01, 30), st.floats(0.001, 1), st.integers(1, 99)),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_goodput_is_a_part_of_throughput_and_percentiles_are_ordered(rows):
    outcomes = [done(a, ttft, tpot, output=n) for a, ttft, tpot, n in rows]
    figures = summarise(outcomes, OBJECTIVE)
    for rate, value in figures["completed"].items():
        assert figures["goodput"][rate] <= value * (1 + 1e-9)
    for found in (figures["ttft_s"]["all"], figures["e2e_s"]):
        assert found["p50"] <= found["p90"] <= found["p99"] <= found["max"]
    if figures["slo_met"]:
        assert figures["served_in_time"]


def test_spread_of_one_value_is_that_value():
    assert set(spread([2.5]).values()) == {2.5}
