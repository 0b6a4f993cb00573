"""Refuses by name what is not served, and keeps web pages away from control endpoints."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from amoeba_sglang.frontend.endpoints import is_inference, path_of, refusal_of

# What a browser says of requests that the user, or a page of this server, has made.
_OWN_SITES = ("none", "same-origin")
_PORTS = {"http": 80, "https": 443}

Headers = Sequence[tuple[bytes, bytes]]


class Gate:
    """ASGI middleware, before all that answers: SGLang lets pages of every origin in.

    A page that a user happens to visit can reach a server on the user's own machine. Only a browser
    sends the headers that are looked at, so other clients are not concerned.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path, method = path_of(scope), scope["method"]
            if not is_inference(path):
                reason = foreign_page(scope["headers"], scope.get("scheme", "http"))
                if reason is not None:
                    await _refuse(send, 403, f"{method} {path}: {reason}")
                    return
            refusal = refusal_of(path, method)
            if refusal is not None:
                await _refuse(send, 400, refusal)
                return
        await self._app(scope, receive, send)


def foreign_page(headers: Headers, scheme: str) -> str | None:
    """Why a request is believed to come from a page of another site, or None."""
    hosts = {_host(f"{scheme}://{value.decode('latin-1')}") for value in _all(headers, b"host")}
    for value in _all(headers, b"origin"):
        origin = value.decode("latin-1")
        found = _host(origin)
        # A proxy that ends TLS passes the host on without the scheme.
        same = found is not None and any(host and _same(found, host) for host in hosts)
        if not same:
            return (
                f"the Origin {origin[:100]!a} is not this server: control endpoints are closed "
                "to web pages; use a client that sends no Origin"
            )
    for value in _all(headers, b"sec-fetch-site"):
        site = value.decode("latin-1")
        if site not in _OWN_SITES:
            return (
                f"a web page of another site asks (Sec-Fetch-Site {site[:100]!a}): control "
                "endpoints are closed to web pages"
            )
    return None


def _all(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _host(url: str) -> tuple[str, int | None, str] | None:
    """(host, port if it is said, scheme) of an origin; None if it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return None if host is None else (host, port, parts.scheme)


def _same(origin: tuple[str, int | None, str], host: tuple[str, int | None, str]) -> bool:
    usual = _PORTS.get(origin[2])
    return (origin[0], origin[1] or usual) == (host[0], host[1] or usual)


async def _refuse(send: Any, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
