"""Looks at the bodies of SGLang's OpenAI endpoints before these read them as requests."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from sglang.srt.entrypoints.http_server import validate_json_request

from amoeba_sglang.supported import SESSION_PARAMS


def check_bodies(app: FastAPI) -> None:
    """Let the check of the content type, which all these endpoints share, refuse bodies that are no
    objects, which they fail on, and `session_params`, which they take and drop."""
    app.dependency_overrides[validate_json_request] = _validate_json_request


async def _validate_json_request(raw_request: Request) -> None:
    await validate_json_request(raw_request)
    body: Any = await raw_request.json()
    if not isinstance(body, dict):
        kind = type(body).__name__
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"the body must be a JSON object, not {kind}")
    if body.get("session_params") is not None:
        raise HTTPException(HTTPStatus.BAD_REQUEST, SESSION_PARAMS)
