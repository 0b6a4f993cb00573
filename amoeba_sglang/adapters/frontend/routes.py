"""The HTTP endpoints that Amoeba adds: those under /amoeba, and what a gateway asks for."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from sglang.srt.utils.auth import AuthLevel, auth_level

from amoeba_sglang.control.router.transform_request import MAX_BODY_BYTES, parse_transform
from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.feed import Feed
from amoeba_sglang.frontend.pages import ADDRESS, HEADERS, TYPES, page_files


class Reply(Protocol):
    """The router's answer: an HTTP status and a JSON body."""

    status: int
    body: dict[str, Any]


def add_routes(
    app: FastAPI,
    ask: Callable[[str, dict[str, Any]], Awaitable[Reply]],
    feed: Callable[[], Feed],
) -> None:
    """Add the endpoints; `ask(kind, body)` asks the router process and may raise RequestError.
    `feed`: that of this process, once it serves.

    Straight to the app: SGLang's key check does not see the auth level of an included router's
    endpoints with FastAPI 0.165, and would let everybody in.
    """

    add_page(app)

    async def answer(kind: str, body: dict[str, Any]) -> JSONResponse:
        try:
            reply = await ask(kind, body)
        except RequestError as error:
            return refuse(error)
        return JSONResponse(reply.body, reply.status)

    @app.get("/amoeba/state")
    async def get_state() -> JSONResponse:
        """Layout, load, running operation and history."""
        return await answer("state", {})

    @app.get("/amoeba/events")
    async def get_events() -> Response:
        """Server-sent events; see feed.py and docs/interface.md."""
        events = feed().read()
        try:
            first = await anext(events)
        except RequestError as error:
            return refuse(error)
        return StreamingResponse(
            follow(first, events),
            media_type="text/event-stream",
            # A proxy that keeps them back would show the past.
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    @app.get("/get_load")
    async def get_load() -> JSONResponse:
        """Load by worker, in the form that SGLang's gateway reads; SGLang itself has dropped it."""
        try:
            reply = await ask("load", {})
        except RequestError as error:
            return refuse(error)
        # A server that ends answers with its reason alone.
        return JSONResponse(reply.body.get("loads", reply.body), reply.status)

    @app.post("/amoeba/transform")
    @auth_level(AuthLevel.ADMIN_OPTIONAL)
    async def transform(request: Request) -> JSONResponse:
        """Change the degree of some ranks; the answer is the finished operation."""
        try:
            body = parse_transform(await read_head(request)).to_body()
        except RequestError as error:
            return refuse(error)
        return await answer("transform", body)


def add_page(app: FastAPI) -> None:
    """The files of the page at /amoeba, which need no key."""

    @auth_level(AuthLevel.PUBLIC)
    async def lead_below() -> Response:
        # Relative: below whatever prefix a proxy has.
        return RedirectResponse("amoeba/", headers=HEADERS)

    def make(file: Path) -> Callable[[], Awaitable[Response]]:
        @auth_level(AuthLevel.PUBLIC)
        async def send() -> Response:
            return Response(file.read_bytes(), media_type=TYPES[file.suffix], headers=HEADERS)

        return send

    for path, answer in [(ADDRESS, lead_below), *((p, make(f)) for p, f in page_files().items())]:
        app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)


async def follow(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in events:
        yield event


async def read_head(request: Request) -> bytes:
    """The body, or of one that is too large enough to see that: nobody keeps the rest."""
    head = b""
    async for part in request.stream():
        head += part
        if len(head) > MAX_BODY_BYTES:
            break
    return head


def refuse(error: RequestError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status)
