"""The HTTP endpoints under /amoeba."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sglang.srt.utils.auth import AuthLevel, auth_level

from amoeba_sglang.errors import RequestError
from amoeba_sglang.router.transform_request import parse_transform

router = APIRouter(prefix="/amoeba")


@router.get("/state")
async def get_state() -> JSONResponse:
    """Layout, load, running operation and history."""
    return await _ask("state", {})


@router.post("/transform")
@auth_level(AuthLevel.ADMIN_OPTIONAL)
async def transform(request: Request) -> JSONResponse:
    """Change the degree of some ranks; the answer is the finished operation."""
    try:
        body = parse_transform(await request.body()).to_body()
    except RequestError as error:
        return _error(error)
    return await _ask("transform", body)


async def _ask(kind: str, body: dict[str, Any]) -> JSONResponse:
    # Lazy: the HTTP server imports half of SGLang, and sets its state late.
    from sglang.srt.entrypoints.http_server import get_global_state

    try:
        reply = await get_global_state().tokenizer_manager.ask_router(kind, body)
    except RequestError as error:
        return _error(error)
    return JSONResponse(reply.body, reply.status)


def _error(error: RequestError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, error.status)
