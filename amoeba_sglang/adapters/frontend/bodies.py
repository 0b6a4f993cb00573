"""Looks at the bodies of SGLang's OpenAI endpoints before these read them as requests."""

from collections.abc import Callable
from http import HTTPStatus
from types import NoneType
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from sglang.srt.entrypoints.http_server import validate_json_request

from amoeba_sglang.adapters.frontend.request_checks import NO_SESSIONS
from amoeba_sglang.adapters.frontend.sampling_checks import MOST_TOKENS
from amoeba_sglang.errors import show
from amoeba_sglang.frontend.values import require_ids, require_range

# /v1/responses has begun its stream before it looks at its own.
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
# SGLang reads these before it has looked at their types.
_OBJECTS = ("chat_template_kwargs", "reasoning", "response_format")


def check_bodies(app: FastAPI, vocabulary: Callable[[], int]) -> None:
    """Let the check of the content type, which all these endpoints share, refuse more.

    These are bodies and fields that are no objects, which endpoints fail on, `session_params`,
    which they take and drop, output lengths that cannot be, and ids to detokenize that no token of
    the `vocabulary` has.
    """

    async def check(raw_request: Request) -> None:
        await validate_json_request(raw_request)
        body: Any = await raw_request.json()
        if not isinstance(body, dict):
            kind = type(body).__name__
            reason = f"the body must be a JSON object, not {kind}"
            raise HTTPException(HTTPStatus.BAD_REQUEST, reason)
        if body.get("session_params") is not None:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"session_params: {NO_SESSIONS}")
        for field in _OBJECTS:
            if not isinstance(body.get(field, {}), dict | NoneType):
                reason = f"{field} {show(body[field])}: must be an object"
                raise HTTPException(HTTPStatus.BAD_REQUEST, reason)
        for field in _LIMITS:
            if body.get(field) is not None:
                require_range(field, body[field], 0, MOST_TOKENS)
        if raw_request.url.path.endswith("/detokenize"):
            _require_tokens(body.get("tokens"), vocabulary())

    app.dependency_overrides[validate_json_request] = check


def _require_tokens(tokens: Any, vocabulary: int) -> None:
    """Of one text or of several; what is no list is for the endpoint to refuse."""
    if not isinstance(tokens, list):
        return
    nested = all(isinstance(one, list) for one in tokens)
    for one in tokens if nested else [tokens]:
        require_ids("tokens", one, vocabulary)
