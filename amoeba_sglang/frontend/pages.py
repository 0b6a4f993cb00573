"""The files of the page at /amoeba: public, since they say nothing of the server."""

from pathlib import Path
from typing import Any

from amoeba_sglang.frontend.endpoints import path_of

FILES = Path(__file__).parent / "page"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing from elsewhere, and nobody shows the page within another one, whose clicks would be ours.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """ASGI middleware before the check of keys. `/amoeba` leads to `amoeba/`, below whatever prefix
    a proxy has; what it has no file for is somebody else's."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._files = {
            f"/amoeba/{'' if file.name == 'index.html' else file.name}": file
            for file in FILES.iterdir()
            if file.suffix in _TYPES
        }

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            path = path_of(scope)
            if path == "/amoeba":
                await _reply(send, 307, [(b"location", b"amoeba/")], b"")
                return
            file = self._files.get(path)
            if file is not None:
                body = b"" if scope["method"] == "HEAD" else file.read_bytes()
                await _reply(send, 200, [(b"content-type", _TYPES[file.suffix])], body)
                return
        await self._app(scope, receive, send)


async def _reply(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    guards = [
        (b"content-security-policy", _POLICY),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        # Of this release: what a new one brings must not be missed.
        (b"cache-control", b"no-cache"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers + guards})
    await send({"type": "http.response.body", "body": body})
