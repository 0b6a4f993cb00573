"""Refuses `session_params` on SGLang's OpenAI endpoints, which take the field and drop it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from sglang.srt.entrypoints.http_server import validate_json_request

from amoeba_sglang.supported import SESSION_PARAMS


def refuse_session_params(app: FastAPI) -> None:
    """Let the check of the content type, which all these endpoints share, look for it too."""
    app.dependency_overrides[validate_json_request] = _validate_json_request


async def _validate_json_request(raw_request: Request) -> None:
    await validate_json_request(raw_request)
    body: Any = await raw_request.json()
    if isinstance(body, dict) and body.get("session_params") is not None:
        raise HTTPException(HTTPStatus.BAD_REQUEST, SESSION_PARAMS)
