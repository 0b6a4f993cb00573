import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.errors import ConfigError
from bench.trace import Recipe, TraceRequest, read_trace

ROWS = st.builds(TraceRequest, st.floats(5, 4000), st.integers(1, 130_000), st.integers(1, 4000))
TRACES = st.lists(ROWS, min_size=1, max_size=60).map(lambda t: sorted(t, key=lambda r: r.arrival))


@given(TRACES, st.integers(0, 9))
def test_a_plain_recipe_only_moves_the_start_to_zero(trace, seed):
    made = Recipe(seed=seed).apply(trace)
    assert [(r.input_tokens, r.output_tokens) for r in made.requests] == [
        (r.input_tokens, r.output_tokens) for r in trace
    ]
    assert made.requests[0].arrival == 0
    assert made.span == trace[-1].arrival - trace[0].arrival
    assert (made.clipped, made.mixed_in) == (0, 0)


@given(TRACES, st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 9))
def test_fewer_rows_kept_are_some_of_those_kept_by_a_larger_share(trace, low, high, seed):
    low, high = sorted((low, high))
    try:
        fewer = Recipe(keep=low, seed=seed).apply(trace).requests
    except ConfigError:
        return
    rest = list(Recipe(keep=high, seed=seed).apply(trace).requests)
    for request in fewer:
        rest.remove(request)


@given(TRACES, st.integers(0, 9), st.floats(0, 100), st.floats(0, 30))
def test_mixing_changes_lengths_and_no_arrival(trace, seed, percent, spread):
    plain = Recipe(spread=spread, seed=seed).apply(trace)
    mixed = Recipe(
        spread=spread, seed=seed, long_percent=percent, long_input=131_000, long_output=7
    ).apply(trace)
    assert [r.arrival for r in mixed.requests] == [r.arrival for r in plain.requests]
    long = [r for r in mixed.requests if (r.input_tokens, r.output_tokens) == (131_000, 7)]
    assert len(long) == mixed.mixed_in
    assert all(
        made in long or made == row
        for made, row in zip(mixed.requests, plain.requests, strict=True)
    )


@given(TRACES, st.floats(0.001, 3), st.integers(1, 5000), st.integers(1, 100))
def test_lengths_are_scaled_and_then_clipped(trace, scale, max_input, max_output):
    made = Recipe(scale=scale, max_input=max_input, max_output=max_output).apply(trace)
    clipped = 0
    for request, row in zip(made.requests, trace, strict=True):
        prompt, output = (max(1, round(n * scale)) for n in (row.input_tokens, row.output_tokens))
        assert request.input_tokens == min(prompt, max_input)
        assert request.output_tokens == min(output, max_output)
        clipped += prompt > max_input or output > max_output
    assert made.clipped == clipped


@given(TRACES, st.floats(0.1, 50), st.floats(0, 5))
def test_spread_is_bounded_and_speed_divides_time(trace, speed, spread):
    slow = Recipe(spread=spread).apply(trace).requests
    fast = Recipe(spread=spread, speed=speed).apply(trace).requests
    first = trace[0].arrival
    for lengths in {(r.input_tokens, r.output_tokens) for r in trace}:
        times = sorted(r.arrival for r in slow if (r.input_tokens, r.output_tokens) == lengths)
        rows = sorted(
            r.arrival - first for r in trace if (r.input_tokens, r.output_tokens) == lengths
        )
        rounding = 1e-9  # of sums of seconds
        assert all(
            -rounding <= t - row <= spread + rounding for t, row in zip(times, rows, strict=True)
        )
    assert [r.arrival for r in fast] == pytest.approx([r.arrival / speed for r in slow])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"keep": 0}, "keep 0"),
        ({"keep": 1.5}, "keep 1.5"),
        ({"scale": 0}, "scale 0"),
        ({"rows": 0}, "rows 0"),
        ({"spread": -1}, "spread -1"),
        ({"long_percent": 101}, "long_percent 101"),
        ({"long_percent": 1}, "long_input"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, text):
    with pytest.raises(ConfigError, match=text):
        Recipe(**fields)


def test_a_trace_is_read_by_its_columns_in_time_order(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("output_tokens,timestamp_s,input_tokens\n5,2.5,7\n6,0.5,8\n")
    assert read_trace(path) == [TraceRequest(0.5, 8, 6), TraceRequest(2.5, 7, 5)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a,b,c\n1,2,3\n", "must name the columns"),
        ("timestamp_s,input_tokens,output_tokens\n", "no requests"),
        ("timestamp_s,input_tokens,output_tokens\n1,2,x\n", ":2: not a time"),
        ("timestamp_s,input_tokens,output_tokens\n1,2\n", ":2: not a time"),
        ("timestamp_s,input_tokens,output_tokens\n1,0,3\n", ":2: a request has at least 1"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, error):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error):
        read_trace(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_trace(tmp_path / "none.csv")
