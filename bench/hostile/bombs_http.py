"""What is no request for the route, and places that are none: methods, types, bodies, queries."""

import json
from collections.abc import Iterator

from bench.hostile.bodies import BODIES
from bench.hostile.bomb import Bomb
from bench.hostile.cases import Expect

_JSON = {"Content-Type": "application/json"}
_REFUSE, _SERVE, _EITHER = Expect.REFUSE, Expect.SERVE, Expect.EITHER


def make_bodies() -> Iterator[Bomb]:
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
            route, "an origin", BODIES[route][0], ("origin",),
            _REFUSE if route == "/amoeba/transform" else _SERVE,
            headers={**_JSON, "Origin": "http://evil.example"}, same=True,
        )  # fmt: skip
        yield Bomb(
            route, "a hundred headers", BODIES[route][0], ("header",),
            headers={**_JSON, **{f"X-Header-{n}": "x" * 100 for n in range(100)}}, same=True,
        )  # fmt: skip
        yield Bomb(
            route, "headers that speak for fields", BODIES[route][0], ("header", "dp_rank"),
            headers={
                **_JSON, "X-Data-Parallel-Rank": "99", "X-Request-Id": "x" * 1000,
                "X-Custom-Labels": "{", "X-SMG-Routing-Key": "\t", "traceparent": "nope",
            },
        )  # fmt: skip


def make_places() -> Iterator[Bomb]:
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
