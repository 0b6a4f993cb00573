"""Answers that the router gives its clients in the place of a worker."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from sglang.srt.managers.io_struct import AbortReq

_ERRORS = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}


def refuse(request: Any, reason: str, status: HTTPStatus) -> AbortReq:
    """The end of a request with 400 or 503 and the reason."""
    finished = {
        "type": "abort",
        "message": reason,
        "status_code": status,
        "err_type": _ERRORS[status],
    }
    return end(request, finished)


def end(request: Any, finished_reason: dict[str, Any] | None) -> AbortReq:
    """The end of a request that no worker has seen."""
    return AbortReq(
        rid=request.rid, http_worker_ipc=request.http_worker_ipc, finished_reason=finished_reason
    )


def is_named_by(request: Any, abort: AbortReq) -> bool:
    """Whether an abort means this request: all, or exactly this id."""
    return abort.abort_all or request.rid == abort.rid
