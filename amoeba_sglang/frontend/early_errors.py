"""Gives what fails before its first word the status of its error."""

import json
import traceback
from typing import Any

_EVENT = b"data: "
_BAD_SHAPE = (AttributeError, TypeError, LookupError, RecursionError)
# FastAPI's function, below which everything is about the body.
_READS_BODY = "request_body_to_args"
_STREAMS = (b"text/event-stream", b"application/x-ndjson")


class EarlyErrors:
    """ASGI middleware for streams, and for routes that let a ValueError through.

    SGLang's /generate sends its 200 before it looks at a streaming request, so a request that it
    refuses gets a 200 with an error inside. Here the head of a stream waits for the first event; if
    that is an error, its status and a JSON body are sent in place of the stream. Other routes
    raise the ValueError that most answer with 400, and some read fields of a body before they have
    looked at their types: a broken stream or a 500 without this.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._app(scope, receive, response.send)
        except ValueError as error:
            if response.started:
                raise
            await response.refuse(str(error), getattr(error, "status_code", 400))
        except _BAD_SHAPE as error:
            reader = _reader_of_body(error)
            if response.started or reader is None:
                raise
            await response.refuse(f"the body cannot be read, {reader}: {error}", 400)


def _reader_of_body(error: Exception) -> str | None:
    """The function that failed if it read a body as a request; None if something else failed."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].name if any(frame.name == _READS_BODY for frame in frames) else None


class _Response:
    def __init__(self, send: Any) -> None:
        self._send = send
        self._head: dict[str, Any] | None = None
        self._replaced = False
        self.started = False

    async def refuse(self, message: str, status: int) -> None:
        """Send what a request is refused with; nothing has been sent before."""
        self._replaced = True
        body = {"message": message, "type": "BadRequestError", "code": status}
        head = {"type": "http.response.start", "headers": []}
        await self._send_error(head, status, body)

    async def send(self, message: dict[str, Any]) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start" and _is_stream(message):
            self._head = message
            return
        if message["type"] == "http.response.body" and self._head is not None:
            if not message.get("body") and message.get("more_body"):
                return
            head, self._head = self._head, None
            error = _find_error(message.get("body", b""))
            if error is not None:
                self._replaced = True
                await self._send_error(head, *error)
                return
            self.started = True
            await self._send(head)
        self.started = True
        await self._send(message)

    async def _send_error(self, head: dict[str, Any], status: int, error: dict[str, Any]) -> None:
        body = json.dumps({"error": error}).encode()
        replaced = (b"content-type", b"content-length")
        headers = [pair for pair in head["headers"] if pair[0].lower() not in replaced]
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**head, "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _is_stream(start: dict[str, Any]) -> bool:
    headers = dict(start.get("headers", ()))
    return start["status"] == 200 and headers.get(b"content-type", b"").startswith(_STREAMS)


def _find_error(first: bytes) -> tuple[int, dict[str, Any]] | None:
    """(status, error) if the first event of a stream is an error: SGLang's two ways to say it."""
    if not first.startswith(_EVENT):
        return None
    try:
        event = json.loads(first[len(_EVENT) :].split(b"\n\n", 1)[0])
    except ValueError:
        return None
    match event:
        case {"error": {"code": int(code)} as error} if 400 <= code < 600:
            return code, error
        case {
            "meta_info": {"finish_reason": {"type": "abort", "status_code": int(code)} as reason}
        }:
            error = {"message": reason.get("message", ""), "code": code}
            return (code, error) if 400 <= code < 600 else None
    return None
