"""Server-sent events of a server's `/amoeba/events`."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from amoeba_sglang.errors import ConfigError

# Frames come twice a second; a router may take five seconds to answer.
_SILENCE_SECONDS = 15.0


class ConnectionLost(Exception):
    """The server is not there, or has closed the stream; it may come back."""


def follow(url: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of every event; the first is a view. ConfigError: no server of ours, or not with
    this key. ConnectionLost: otherwise, at any time."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    address = f"{url.rstrip('/')}/amoeba/events"
    timeout = httpx.Timeout(10.0, read=_SILENCE_SECONDS)
    try:
        with httpx.stream("GET", address, headers=headers, timeout=timeout) as reply:
            _require(reply, url, key)
            name = ""
            for line in reply.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
    except httpx.UnsupportedProtocol:
        raise ConfigError(f"{url}: no address; it begins with http:// or https://") from None
    except httpx.HTTPError as error:
        raise ConnectionLost(f"{url}: {str(error) or type(error).__name__}") from None
    raise ConnectionLost(f"{url}: the server closed the stream")


def _require(reply: httpx.Response, url: str, key: str) -> None:
    if reply.status_code in (401, 403):
        said = "does not let this key in" if key else "asks for a key"
        raise ConfigError(f"{url}: {said}; give the one of its --api-key by --api-key")
    if reply.status_code == 503:
        reply.read()
        raise ConnectionLost(f"{url}: {_reason(reply)}")
    kind = reply.headers.get("content-type", "")
    if reply.status_code != 200 or not kind.startswith("text/event-stream"):
        raise ConfigError(
            f"{url}: no server of Amoeba ({reply.status_code} for /amoeba/events); give the "
            "address in its ready line"
        )


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {reply.status_code}"
