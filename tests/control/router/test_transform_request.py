import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.router.transform_request import TransformRequest, parse_transform
from amoeba_sglang.errors import RequestError


def parse(**body) -> TransformRequest:
    return parse_transform(json.dumps(body).encode())


def test_a_full_body():
    request = parse(ranks=[0, 1], degree=2, operation_id="a", wait=False)
    assert request == TransformRequest((0, 1), 2, "a", False)
    assert TransformRequest.from_body(request.to_body()) == request


def test_missing_ids_are_drawn():
    first, second = parse(ranks=[0], degree=1), parse(ranks=[0], degree=1, operation_id=None)
    assert first.wait
    assert first.operation_id != second.operation_id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "must be a JSON object, not an array"),
        (b"3", "must be a JSON object, not a number"),
        (b"null", "must be a JSON object, not null"),
        (b"{}", "'ranks' is missing"),
        (b'{"ranks": [0]}', "'degree' is missing"),
        (b'{"ranks": [0], "degree": 1, "rank": 1}', "unknown field 'rank'"),
        (b'{"ranks": "01", "degree": 1}', "ranks must be a list of integers"),
        (b'{"ranks": [true], "degree": 1}', "ranks must be a list of integers"),
        (b'{"ranks": [0.0], "degree": 1}', "ranks must be a list of integers"),
        (b'{"ranks": [], "degree": 1}', "ranks must not be empty"),
        (b'{"ranks": [1, 0], "degree": 2}', "ranks must be ascending"),
        (b'{"ranks": [0, 0], "degree": 2}', "ranks must be ascending"),
        (b'{"ranks": [0], "degree": "1"}', "degree must be an integer"),
        (b'{"ranks": [0], "degree": true}', "degree must be an integer"),
        (b'{"ranks": [0], "degree": 1, "operation_id": ""}', "operation_id must be"),
        (b'{"ranks": [0], "degree": 1, "operation_id": 5}', "operation_id must be"),
        (b'{"ranks": [0], "degree": 1, "wait": 1}', "wait must be true or false"),
        (b"[" * 60_000 + b"]" * 60_000, "more than 65536 bytes"),
        (b"[" * 30_000 + b"]" * 30_000, "nested too deeply"),
        (b'{"ranks": ' + b"[" * 900 + b"]" * 900 + b', "degree": 1}', "a list of integers"),
        (b'{"ranks": [0], "degree": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"ranks": [0], "degree": 1' + b"0" * 4000 + b"}", "degree must be in 1..2147483647"),
        (b'{"ranks": [0], "degree": 0}', "degree must be in 1.."),
        (b'{"ranks": [-1, 0], "degree": 1}', "ranks must be in 0.."),
        (b'{"ranks": [0, 1' + b"0" * 4000 + b'], "degree": 1}', "ranks must be in 0.."),
        (b'{"ranks": [0], "degree": NaN}', "NaN is no JSON value"),
        (b'{"ranks": [0], "degree": 1, "operation_id": "a\\nb"}', "only printable characters"),
        (b'{"ranks": [0], "degree": 1, "operation_id": "\\ud800"}', "only printable characters"),
        (b'{"' + b"x" * 60_000 + b'": 1}', "unknown field"),
        (json.dumps({"ranks": [0] * 20_000, "degree": 1}).encode(), "ranks must be ascending"),
    ],
)
def test_bad_bodies(text, says):
    with pytest.raises(RequestError) as error:
        parse_transform(text)
    assert error.value.status == 400
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.one_of(JSON, st.fixed_dictionaries({"ranks": JSON, "degree": JSON})))
def test_any_json_is_parsed_or_refused(body):
    try:
        request = parse_transform(json.dumps(body).encode())
    except RequestError:
        return
    assert body["ranks"] == list(request.ranks)
    assert body["degree"] == request.degree
