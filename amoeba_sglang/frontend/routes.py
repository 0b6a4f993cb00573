"""The HTTP endpoints under /amoeba."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sglang.srt.utils.auth import AuthLevel, auth_level

from amoeba_sglang.errors import RequestError
from amoeba_sglang.router.transform_request import parse_transform


class Reply(Protocol):
    """The router's answer: an HTTP status and a JSON body."""

    status: int
    body: dict[str, Any]


def make_router(ask: Callable[[str, dict[str, Any]], Awaitable[Reply]]) -> APIRouter:
    """The endpoints; `ask(kind, body)` asks the router process and may raise RequestError."""
    router = APIRouter(prefix="/amoeba")

    async def answer(kind: str, body: dict[str, Any]) -> JSONResponse:
        try:
            reply = await ask(kind, body)
        except RequestError as error:
            return refuse(error)
        return JSONResponse(reply.body, reply.status)

    @router.get("/state")
    async def get_state() -> JSONResponse:
        """Layout, load, running operation and history."""
        return await answer("state", {})

    @router.post("/transform")
    @auth_level(AuthLevel.ADMIN_OPTIONAL)
    async def transform(request: Request) -> JSONResponse:
        """Change the degree of some ranks; the answer is the finished operation."""
        try:
            body = parse_transform(await request.body()).to_body()
        except RequestError as error:
            return refuse(error)
        return await answer("transform", body)

    return router


def refuse(error: RequestError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status)
