"""Requests made by hand: what takes for ever, what is enormous, what only a client would not send.

Each says which names a refusal may use, and whether it must be refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.hostile.bodies import BODIES
from bench.hostile.cases import Expect, Raw, put
from bench.hostile.ranges import MANY_CHOICES, OUTPUT, Bounds

_JSON = {"Content-Type": "application/json"}
_LONG_OUTPUT = 80
_REFUSE, _SERVE, _EITHER = Expect.REFUSE, Expect.SERVE, Expect.EITHER


@dataclass(frozen=True)
class Bomb:
    """A whole request; `body` is a dict to encode, or bytes as they stand."""

    route: str
    note: str
    body: dict[str, Any] | bytes
    names: tuple[str, ...]
    expect: Expect = Expect.EITHER
    method: str = "POST"
    headers: dict[str, str] | None = None
    url: str = ""
    same: bool = False


def make_bombs(bounds: Bounds) -> list[Bomb]:
    """All of them, in an order that does not change."""
    return [*_patterns(), *_sampling(bounds), *_internals(), *_batches(), *_http(), *_places()]


def _generate(**params: Any) -> dict[str, Any]:
    body = BODIES["/generate"][0]
    return {**body, "sampling_params": {**body["sampling_params"], **params}}


def _nested_schema(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + '{"type":"null"}' + "}}" * depth


def _patterns() -> Iterator[Bomb]:
    """Regular expressions, schemas and grammars that explode, recurse or say nothing."""
    long = {"max_new_tokens": _LONG_OUTPUT}
    stops = {
        "exponential": "(a+)+b", "exponential alternatives": "(a|a)*b", "nested stars": "((a*)*)*b",
        "polynomial": "a*a*a*a*a*a*a*a*b", "back reference": "(a*)\\1b", "look-ahead": "(?=(a+))*b",
    }  # fmt: skip
    for name, stop in stops.items():
        yield Bomb(
            "/generate", f"stop_regex {stop!r} over sixty a ({name})",
            _generate(regex="a{60}", stop_regex=stop, **long), ("stop_regex",),
        )  # fmt: skip
    for stop in ("(", "[a", "a{99999999999}", "(?P<x", "*", "(a{1000}){1000}", "\ud800", ""):
        expect = _REFUSE if stop in ("(", "[a", "(?P<x", "*") else _EITHER
        yield Bomb(
            "/generate", f"stop_regex {stop!r}", _generate(stop_regex=stop), ("stop_regex",), expect
        )
    regexes = ("(a{1000}){1000}", "(a{0,1000}){0,1000}b", "(((((a|b)*)*)*)*)*", "(", "[z-a]",
               "a{100000}", "(?=a)b", "\\p{Nope}", "a" * 20_000, "\x00", "\ud800", "(" * 5000 +
               "a" + ")" * 5000, "(.*a){25}", "(a|b|ab)*c{500}")  # fmt: skip
    for regex in regexes:
        expect = _REFUSE if regex in ("(", "[z-a]") else _EITHER
        yield Bomb(
            "/generate", f"regex {regex[:40]!r} of {len(regex)}", _generate(regex=regex),
            ("regex", "grammar"), expect,
        )  # fmt: skip
    schemas = {
        "not JSON": ("{", _REFUSE),
        "a number": ("7", _EITHER),
        "an unknown type": ('{"type": "nope"}', _REFUSE),
        "refers to itself": ('{"$ref": "#"}', _EITHER),
        "refers to itself in a ring": (
            '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
            _EITHER,
        ),
        "refers to nothing": ('{"$ref": "#/$defs/none"}', _REFUSE),
        "refers to a host": ('{"$ref": "http://127.0.0.1:9/x"}', _EITHER),
        "200 deep": (_nested_schema(200), _EITHER),
        "5,000 deep": (_nested_schema(5000), _EITHER),
        "huge maxLength": ('{"type":"string","maxLength":1000000000}', _EITHER),
        "huge minLength": ('{"type":"string","minLength":1000000000}', _EITHER),
        "negative maxLength": ('{"type":"string","maxLength":-1}', _EITHER),
        "huge minItems": ('{"type":"array","minItems":100000000}', _EITHER),
        "a pattern that explodes": (
            '{"type":"string","pattern":"^(a{1000}){1000}$"}',
            _EITHER,
        ),
        "5,000 alternatives": (
            json.dumps({"enum": [f"choice {n}" for n in range(5000)]}),
            _EITHER,
        ),
        "nothing fits": ('{"type":"integer","minimum":5,"maximum":1}', _EITHER),
        "numbers beyond 64 bits": ('{"type":"integer","minimum":1e300}', _EITHER),
        "false": ("false", _EITHER),
    }
    for name, (schema, expect) in schemas.items():
        yield Bomb(
            "/generate", f"json_schema: {name}", _generate(json_schema=schema),
            ("json_schema", "grammar"), expect,
        )  # fmt: skip
    grammars = ("", "root ::= root", "root ::= root root", 'root ::= ("a"+)+ "b"', "nope",
                'root ::= "a"{1000000}', 'start ::= "a"', 'root ::= ' + '(' * 5000, "root ::= [",
                "root ::= x", "\x00", 'root ::= ""')  # fmt: skip
    for grammar in grammars:
        expect = _REFUSE if grammar in ("nope", "root ::= [", "root ::= x") else _EITHER
        yield Bomb(
            "/generate", f"ebnf {grammar[:40]!r}", _generate(ebnf=grammar), ("ebnf", "grammar"),
            expect,
        )  # fmt: skip
    tags = ("{", "{}", '{"type":"structural_tag"}', "7", '{"structures":[],"triggers":[]}',
            '{"structures":[{"begin":"a","schema":{"$ref":"#"},"end":"b"}],"triggers":["a"]}',
            '{"type":"structural_tag","format":{"type":"nope"}}')  # fmt: skip
    for tag in tags:
        yield Bomb(
            "/generate", f"structural_tag {tag[:60]!r}", _generate(structural_tag=tag),
            ("structural_tag", "grammar"), _REFUSE if tag in ("{", "7") else _EITHER,
        )  # fmt: skip
    yield Bomb(
        "/generate", "two grammars", _generate(regex="a", ebnf='root ::= "a"'), ("regex", "ebnf"),
        _REFUSE,
    )  # fmt: skip


def _sampling(bounds: Bounds) -> Iterator[Bomb]:
    vocabulary = bounds.vocabulary
    yield Bomb("/generate", "n of 50,000", _generate(n=MANY_CHOICES), ("n",), _REFUSE)
    yield Bomb(
        "/v1/chat/completions", "n of 50,000",
        {**BODIES["/v1/chat/completions"][0], "n": MANY_CHOICES}, ("n",), _REFUSE,
    )  # fmt: skip
    for number in (1_000_000, -5, vocabulary + 1, 2**64):
        body = {**_generate(), "return_logprob": True, "top_logprobs_num": number}
        yield Bomb("/generate", f"top_logprobs_num {number}", body, ("top_logprobs_num",), _REFUSE)
    for number in (-2, 100, 10**6, 2**64):
        body = {**_generate(), "return_logprob": True, "logprob_start_len": number}
        yield Bomb(
            "/generate", f"logprob_start_len {number}", body, ("logprob_start_len",), _REFUSE
        )
    for ids in ([vocabulary], [-1], [2**40], [2**64], [[vocabulary]], ["x"], [5] * 10_000):
        body = {**_generate(), "return_logprob": True, "token_ids_logprob": ids}
        yield Bomb(
            "/generate", f"token_ids_logprob {str(ids)[:40]}", body, ("token_ids_logprob",),
            _EITHER if ids[0] == 5 else _REFUSE,
        )  # fmt: skip
    for bias in ({"5": 1e308}, {"5": -1e308}, {"5": Raw("NaN")}, {"5": Raw("Infinity")}, {"x": 1},
                 {"-1": 1}, {str(vocabulary): 1}, {str(2**64): 1}, {"": 1}, {"5": None}, {"5": "x"},
                 {str(n): 1 for n in range(10_000)}):  # fmt: skip
        either = len(bias) > 1 or bias.get("5") in (1e308, -1e308)
        for route, plain in (
            ("/generate", _generate(logit_bias=bias)),
            ("/v1/completions", {**BODIES["/v1/completions"][0], "logit_bias": bias}),
        ):
            yield Bomb(
                route, f"logit_bias {str(bias)[:60]}", plain, ("logit_bias",),
                _EITHER if either else _REFUSE,
            )  # fmt: skip
    for ids in ([vocabulary], [-1], [2**31], [2**64], list(range(0, 40_000, 3))):
        yield Bomb(
            "/generate", f"stop_token_ids {str(ids)[:40]} with min_new_tokens",
            _generate(stop_token_ids=ids, min_new_tokens=4), ("stop_token_ids",),
            _EITHER if len(ids) > 1 else _REFUSE,
        )  # fmt: skip
    for stops in (["a"] * 33, [""], ["x" * 100_000], [1], [None], [["a"]], "\ud800"):
        yield Bomb("/generate", f"stop {str(stops)[:40]}", _generate(stop=stops), ("stop",))
    for params in ({"custom_params": {"__sglang_reasoning_end_token_ids": [vocabulary]}},
                   {"custom_params": {"a": {"b": {"c": [{}]}}}}, {"custom_params": 5},
                   {"watermark": {"key": "x"}}, {"beam_width": 2}, {"beam_width": -1},
                   {"stop_strs": ["a"]}, {"is_normalized": True}, {"stop_str_max_len": 2**40},
                   {"no_such_parameter": 1}, {"max_new_tokens": 0}, {"max_new_tokens": None},
                   {"min_new_tokens": OUTPUT + 1}, {"temperature": 1e-300}, {"temperature": 1e308},
                   {"temperature": 1e38, "top_p": 1e-300}, {"stream_interval": 0},
                   {"temperature": 1, "sampling_seed": 2**63 - 1}, {"stream_interval": -1},
                   ):  # fmt: skip
        must_fail = {"is_normalized", "no_such_parameter", "beam_width", "stop_strs"} & set(params)
        yield Bomb(
            "/generate", f"sampling_params {params}", _generate(**params),
            tuple(params), _REFUSE if must_fail else _EITHER,
        )  # fmt: skip
    body = {**BODIES["/generate"][0], "stream": True}
    yield Bomb(
        "/generate", "stream_interval 0 in a stream",
        put(body, ("sampling_params", "stream_interval"), 0), ("stream_interval",), _REFUSE,
    )  # fmt: skip


def _internals() -> Iterator[Bomb]:
    """Fields that the processes of a server, or a trusted router, say to each other."""
    plain = _generate()
    fields: dict[str, tuple[Any, ...]] = {
        "http_worker_ipc": ("ipc:///tmp/nowhere", "tcp://127.0.0.1:9", "x"),
        "bootstrap_host": ("127.0.0.1", "\x00"),
        "bootstrap_port": (9, -1, 2**40),
        "bootstrap_room": (0, -1, 2**64),
        "bootstrap_pair_key": ("x",),
        "decode_tp_size": (2, -1),
        "need_wait_for_mm_inputs": (True,),
        "encoder_urls": (["http://127.0.0.1:9"],),
        "num_items_assigned": ({"image": [1]}, {"IMAGE": [-1]}, {"audio": []}),
        "token_indices_to_pool": ([0], [-1], [10**6], [[0]]),
        "multi_item_delimiter_indices": ([0], [-1], [10**6], [[0]]),
        "return_routed_experts": (True,),
        "return_indexer_topk": (True,),
        "return_hidden_states": (True, "last"),
        "return_sampling_mask": (True,),
        "custom_logit_processor": ("x", "{}", '{"callable": "80049500"}'),
        "lora_path": ("x", "/nowhere", ""),
        "lora_id": ("x",),
        "session_params": ({"id": "nobody"}, {}, {"id": 5}, {"offset": -1}, {"nope": 1}),
        "session_id": ("x", ""),
        "image_data": ("http://127.0.0.1:9/x.png", "/dev/zero", "x", [[["x"]]], {}),
        "video_data": ("file:///dev/zero",),
        "audio_data": ("data:audio/wav;base64,AAAA",),
        "input_embeds": ([[0.1, 0.2]], [[]], [], [[[0.1]]]),
        "positional_embed_overrides": ({}, "x"),
        "kv_hints": ({}, {"actions": [{}]}, "x"),
        "priority": (2**31, 2**63, 2**64, -(2**64)),
        "disagg_prefill_dp_rank": (7, -1),
        "received_time": (-1e308, 0.0),
        "custom_labels": ({"a" * 1000: "b"}, {"le": "x"}),
        "external_trace_header": ({"traceparent": "x"},),
        "extra_key": ("x" * 100_000,),
        "cache_salt": ("x" * 100_000,),
        "rid": ("x" * 200_000, "\x00", "", ["a", "b"], "a/b", "\ud800"),
        "background": (True,),
        "mm_hashes": (["x"], [["zz"]]),
        "modalities": (["nope"],),
        "no_such_field": (1,),
    }
    for name, values in fields.items():
        for value in values:
            yield Bomb("/generate", f"{name} = {str(value)[:60]}", {**plain, name: value}, (name,))


def _batches() -> Iterator[Bomb]:
    plain = _generate(max_new_tokens=2)
    del plain["text"]
    batches: dict[str, Any] = {
        "200 prompts": ["a b c"] * 200, "no prompt": [], "an empty prompt": [""],
        "a prompt and none": ["a", None], "prompts of prompts": [["a"]],
    }  # fmt: skip
    for name, prompts in batches.items():
        names = ("text", "prompt", "input_ids")
        yield Bomb("/generate", f"text: {name}", {**plain, "text": prompts}, names)
    for ids in ([], [[]], [[5], []], [[5], 5], [5, [5]], [[5]] * 100, [[5, 2**40]], None):
        body = {**plain, "input_ids": ids}
        names = ("input_ids", "text", "prompt")
        yield Bomb("/generate", f"input_ids {str(ids)[:40]}", body, names)
    yield Bomb("/generate", "no prompt at all", plain, ("text", "input_ids"), _REFUSE)
    both = {**plain, "text": "a", "input_ids": [5]}
    yield Bomb("/generate", "two prompts", both, ("text", "input_ids"))
    for rids in (["a", "a"], ["a"], ["a", 5], "a", ["", ""]):
        body = {**plain, "text": ["a", "b"], "rid": rids}
        yield Bomb("/generate", f"two prompts with rid {rids}", body, ("rid", "request id"))
    for params in ([], [{}], [{}, {}], [{"n": 2}, {"n": 3}], [{}, None], [[], []]):
        body = {**plain, "text": ["a", "b"], "sampling_params": params}
        if {} in params:
            body["sampling_params"] = [p and {**p} or {"max_new_tokens": 2} for p in params]
        names = ("sampling_params", "parallel_sample_num", "n")
        yield Bomb("/generate", f"two prompts with sampling_params {params}", body, names)
    for name in (
        "return_logprob",
        "top_logprobs_num",
        "logprob_start_len",
        "lora_path",
        "extra_key",
    ):
        body = {**plain, "text": ["a", "b"], name: []}
        yield Bomb("/generate", f"two prompts with {name} []", body, (name,))


def _http() -> Iterator[Bomb]:
    """What is no request for the route: another method, content type, encoding, or no JSON."""
    for route in ("/generate", "/v1/chat/completions", "/v1/messages", "/amoeba/transform"):
        whole = json.dumps(BODIES[route][0]).encode()
        body = ("body", "json", "JSON")
        for note, data in {
            "no JSON": b"hello", "no body": b"", "half a body": whole[: len(whole) // 2],
            "bytes": bytes(range(128, 256)), "a list": b"[]", "a string": b'"x"', "null": b"null",
            "a number": b"7", "100,000 brackets": b"[" * 100_000, "two values": whole + whole,
            "a byte order mark": b"\xef\xbb\xbf" + whole, "UTF-16": whole.decode().encode("utf-16"),
        }.items():  # fmt: skip
            expect = _EITHER if note in ("a byte order mark", "UTF-16") else _REFUSE
            yield Bomb(route, f"body: {note}", data, (*body, "object", "text", "input"), expect)
        for kind in ("text/plain", "application/xml", "", "application/json; charset=utf-7"):
            yield Bomb(
                route, f"content type {kind!r}", whole, ("content-type", "content type", *body),
                headers={"Content-Type": kind} if kind else {},
            )  # fmt: skip
        yield Bomb(
            route, "content encoding gzip of what is none", whole,
            ("content-encoding", "encoding", "gzip", *body),
            headers={**_JSON, "Content-Encoding": "gzip"},
        )  # fmt: skip
        yield Bomb(route, "method DELETE", whole, ("method",), _REFUSE, method="DELETE")
        yield Bomb(route, "method GET", b"", ("method",), _REFUSE, method="GET")
        yield Bomb(
            route, "an origin", BODIES[route][0], ("origin",), _SERVE,
            headers={**_JSON, "Origin": "http://evil.example"}, same=True,
        )  # fmt: skip
        yield Bomb(
            route, "a hundred headers", BODIES[route][0], ("header",),
            headers={**_JSON, **{f"X-Header-{n}": "x" * 100 for n in range(100)}}, same=True,
        )  # fmt: skip
        yield Bomb(
            route, "headers that speak for fields", BODIES[route][0], ("header",),
            headers={
                **_JSON, "X-Data-Parallel-Rank": "99", "X-Request-Id": "x" * 1000,
                "X-Custom-Labels": "{", "X-SMG-Routing-Key": "\t", "traceparent": "nope",
            },
        )  # fmt: skip


def _places() -> Iterator[Bomb]:
    """Paths and queries."""
    names = ("not found", "model", "response", "id")
    for url in ("/v1/models/x", "/v1/models/..%2f..%2fetc", "/v1/models/" + "x" * 5000,
                "/v1/models/%00", "/v1/models/%ff", "/v1/responses/x", "/v1/responses/%00",
                "/no/such/route", "//generate", "/generate/"):  # fmt: skip
        yield Bomb(
            url.split("/x")[0][:40], f"GET {url[:40]}", b"", (*names, "method", "supported"),
            method="GET", url=url, headers={},
        )  # fmt: skip
    yield Bomb(
        "/v1/responses/{response_id}/cancel", "cancel what is not there", b"",
        (*names, "supported"), url="/v1/responses/x/cancel",
    )  # fmt: skip
    for query in ("dp_rank=99", "dp_rank=-1", "dp_rank=x", "include=nope", "format=nope",
                  "dp_rank=99999999999999999999", "include=" + "x," * 1000):  # fmt: skip
        yield Bomb(
            "/v1/loads", query[:40], b"", (query.split("=")[0],), method="GET",
            url=f"/v1/loads?{query}", headers={},
        )  # fmt: skip
    for query in ("timeout=-1", "timeout=x", "timeout=nan", "timeout=0"):
        yield Bomb(
            "/flush_cache", query, b"", ("timeout", "flush", "running"), url=f"/flush_cache?{query}"
        )
    for query in ("level=-1", "level=x", "level=0", "level=99999999999999999999", ""):
        yield Bomb(
            "/set_trace_level", query, b"", ("level", "trace"), url=f"/set_trace_level?{query}"
        )
    for ranks, degree in (([0, 0], 2), ([0, 9], 2), ([-1], 1), ([], 1), ([0, 1], 3), ([0, 1], 0),
                          ([0, 1], 2**64), ([True, False], 2), ([1, 0], 1.0)):  # fmt: skip
        body = {"ranks": ranks, "degree": degree}
        yield Bomb(
            "/amoeba/transform", f"{body}", body, ("rank", "degree"),
            _EITHER if degree == 1.0 and ranks == [1, 0] else _REFUSE,
        )  # fmt: skip
