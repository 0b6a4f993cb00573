"""The hostile requests are the same for the same seed and leave no field out."""

import json
import math

from bench.hostile.bombs import make_bombs
from bench.hostile.bombs_lengths import make_lengths
from bench.hostile.cases import ABSENT, Expect, Raw, encode, has_place, put
from bench.hostile.generator import Generator, choose_routes
from bench.hostile.ranges import Bounds, known_ranges
from bench.hostile.schema import Field, fields_of_hints, read_routes
from bench.hostile.values import values_for

BOUNDS = Bounds(vocabulary=1000, chunk=256, own=480, most=2000, context=4096, workers=2)
DOCUMENT = {
    "paths": {
        "/generate": {
            "put": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/G"}}}}},
            "post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/G"}}}}},
        },
        "/v1/chat/completions": {
            "post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/C"}}}}}
        },
        "/pause_generation": {
            "post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/G"}}}}}
        },
        "/v1/loads": {"get": {"parameters": [{"name": "dp_rank", "in": "query"}]}},
    },
    "components": {
        "schemas": {
            "G": {
                "properties": {
                    "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "rid": {"type": "string"},
                    "top_logprobs_num": {"type": "integer"},
                    "anything": {},
                }
            },
            "C": {
                "required": ["messages"],
                "properties": {
                    "messages": {"type": "array", "items": {"$ref": "#/M"}},
                    "top_p": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
                    "effort": {"enum": ["low", "high"], "type": "string"},
                },
            },
            "M": {
                "properties": {
                    "role": {"const": "user"},
                    "more": {"items": {"$ref": "#/M"}, "type": "array"},
                }
            },
        }
    },
}
SAMPLING = fields_of_hints({"temperature": float, "stop": str | list[str]}, ("sampling_params",))


def routes():
    return read_routes(DOCUMENT, {"/generate": SAMPLING})


def make(number, seed=0, only=""):
    generator = Generator(routes(), BOUNDS, seed, only)
    return generator.make(number), generator.missed


def test_the_same_seed_gives_the_same_requests_and_another_gives_others():
    first, again, other = make(80)[0], make(80)[0], make(80, seed=1)[0]
    assert first == again
    assert [case.body for case in first] != [case.body for case in other]
    assert [case.number for case in first] == list(range(80))


def test_every_field_of_every_route_is_hit():
    cases, missed = make(60)
    assert not missed
    hit = {(case.route, mutation.path) for case in cases for mutation in case.mutations}
    for route, path in [
        ("/generate", ("text",)), ("/generate", ("anything",)),
        ("/generate", ("sampling_params", "temperature")),
        ("/v1/chat/completions", ("messages", "0", "role")),
        ("/v1/chat/completions", ("effort",)),
    ]:  # fmt: skip
        assert (route, path) in hit


def test_fields_that_there_is_no_room_for_are_named():
    cases, missed = make(4)
    assert len(cases) == 4
    assert "/generate sampling_params.stop" in {*missed, *(f"{c.route} {m.field}" for c in cases
                                                           for m in c.mutations)}  # fmt: skip
    assert missed


def test_excluded_routes_and_other_routes_than_the_chosen_one_get_nothing():
    assert {route.path for route in choose_routes(routes())} == {
        "/generate",
        "/v1/chat/completions",
    }
    assert {route.method for route in choose_routes(routes())} == {"POST"}
    assert {case.route for case in make(50, only="/generate")[0]} == {"/generate"}


def test_a_schema_that_refers_to_itself_is_read_once():
    chat = next(route for route in routes() if route.path == "/v1/chat/completions")
    paths = {field.path for field in chat.fields}
    assert ("messages", "0", "more") in paths
    assert ("messages", "0", "more", "0", "role") not in paths


def test_values_lie_at_below_and_above_a_known_range():
    ranges = known_ranges(BOUNDS)
    values = values_for(Field(("top_p",), frozenset({"number"})), BOUNDS, ranges)
    by_kind = {kind: [v for v in values if v.kind == kind] for kind in ("at", "below", "above")}
    assert {v.value for v in by_kind["at"]} >= {1, 0.5}
    assert all(v.expect is Expect.SERVE and v.same for v in by_kind["at"])
    assert all(v.value <= 0 and v.expect is Expect.REFUSE for v in by_kind["below"])
    assert all(v.value > 1 and v.expect is Expect.REFUSE for v in by_kind["above"])
    assert any(isinstance(v.value, float) and math.isnan(v.value) for v in values)
    wrong = [v.value for v in values if v.kind == "type" and v.expect is Expect.REFUSE]
    assert "x" in wrong


def test_ids_outside_of_the_vocabulary_must_be_refused():
    field = Field(("stop_token_ids",), frozenset({"array", "null"}), frozenset({"integer"}))
    by_value = {str(v.value): v.expect for v in values_for(field, BOUNDS, {})}
    assert by_value["[999]"] is Expect.SERVE
    assert by_value["[1000]"] is Expect.REFUSE
    assert by_value["[-1]"] is Expect.REFUSE


def test_every_prompt_fits_one_worker():
    most = max(len(case.body) for case in make(300)[0] if "messages" in case.sent)
    field = Field(("text",), frozenset({"string"}))
    longest = max(len(v.value) for v in values_for(field, BOUNDS, {}) if isinstance(v.value, str))
    assert longest <= 1000
    assert most < 1_000_000


def test_raw_parts_and_absent_fields_are_encoded():
    body = {"a": Raw("[[1]]"), "b": ABSENT, "c": [ABSENT, float("nan")], "d": "\ud800"}
    assert encode(body) == b'{"a": [[1]], "c": [NaN], "d": "\\ud800"}'


def test_a_value_is_put_where_its_path_leads_and_the_body_stays():
    body = {"messages": [{"role": "user"}]}
    assert put(body, ("messages", "0", "role"), 5) == {"messages": [{"role": 5}]}
    assert put(body, ("sampling_params", "n"), 2)["sampling_params"] == {"n": 2}
    assert body == {"messages": [{"role": "user"}]}
    assert has_place(body, ("messages", "0", "content"))
    assert not has_place(body, ("tools", "0", "name"))


def test_requests_made_by_hand_are_encodable_and_say_what_may_name_them():
    bombs = make_bombs(BOUNDS)
    assert len(bombs) > 200
    for bomb in bombs:
        assert bomb.names and bomb.note is not None
        if isinstance(bomb.body, dict):
            json.loads(encode(bomb.body).decode())


def test_lengths_lie_just_below_at_and_above_what_a_server_holds():
    found = {}
    for bomb in make_lengths(BOUNDS):
        if bomb.route == "/generate":
            body = bomb.body
            size = len(body["input_ids"]) + body["sampling_params"]["max_new_tokens"]
            found.setdefault(bomb.expect, set()).add(size)
    assert {255, 256, 257, 479, 480} <= found[Expect.SERVE]
    assert {481, 1999, 2000} <= found[Expect.SERVE_MERGED]
    assert {2001, 4095, 4096, 4097} <= found[Expect.REFUSE]
