"""What the answers of the different APIs say, in one form."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Choice:
    """One output: its text, why it ended, and its tokens where the answer says so."""

    text: str = ""
    finish: str = ""
    tokens: int | None = None


class UnreadableError(ValueError):
    """An answer that is not what its API promises."""


def read_choices(route: str, content_type: str, body: bytes) -> list[Choice]:
    """The outputs of an answer of a generating route, streamed or not."""
    reader, streamed = _READERS[route]
    try:
        if content_type.startswith("text/event-stream"):
            return streamed([json.loads(event) for event in _events(body)])
        if content_type.startswith("application/x-ndjson"):
            return streamed([json.loads(line) for line in body.splitlines() if line.strip()])
        return reader(json.loads(body))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _events(body: bytes) -> Iterator[bytes]:
    ended = False
    for line in body.split(b"\n"):
        if line.startswith(b"data: "):
            ended = line.strip() == b"data: [DONE]" or b'"message_stop"' in line or ended
            if line.strip() != b"data: [DONE]":
                yield line[6:]
    if not ended and b"response.completed" not in body and b"response.incomplete" not in body:
        raise UnreadableError("a stream without an end")


def _generated(reply: Any) -> list[Choice]:
    return [_of_meta(one) for one in (reply if isinstance(reply, list) else [reply])]


def _of_meta(one: dict[str, Any]) -> Choice:
    meta = one["meta_info"]
    finish = meta["finish_reason"]["type"]
    return Choice(one.get("text", ""), finish, meta["completion_tokens"])


def _generated_stream(events: list[Any]) -> list[Choice]:
    last: dict[int, Any] = {}
    for event in events:
        _no_error(event)
        last[event.get("index", 0)] = event
    return [_of_meta(one) for _, one in sorted(last.items())]


def _predicted(reply: Any) -> list[Choice]:
    return _generated(reply["predictions"] if isinstance(reply, dict) else reply)


def _completed(reply: Any) -> list[Choice]:
    found = [Choice(one["text"], one["finish_reason"]) for one in reply["choices"]]
    return _with_usage(found, reply["usage"]["completion_tokens"])


def _chatted(reply: Any) -> list[Choice]:
    found = [
        Choice(one["message"].get("content") or "", one["finish_reason"])
        for one in reply["choices"]
    ]
    return _with_usage(found, reply["usage"]["completion_tokens"])


def _with_usage(found: list[Choice], tokens: int) -> list[Choice]:
    if len(found) == 1:
        found[0].tokens = tokens
    return found


def _chunks(text: Callable[[dict[str, Any]], str | None]) -> Callable[[list[Any]], list[Choice]]:
    def read(events: list[Any]) -> list[Choice]:
        found: dict[int, Choice] = {}
        for event in events:
            _no_error(event)
            for one in event["choices"]:
                choice = found.setdefault(one["index"], Choice())
                choice.text += text(one) or ""
                choice.finish = one.get("finish_reason") or choice.finish
        return [choice for _, choice in sorted(found.items())]

    return read


def _responded(reply: Any) -> list[Choice]:
    texts = [
        part.get("text") or ""
        for one in reply["output"]
        for part in one.get("content") or ()
        if one["type"] == "message"
    ]
    usage = reply.get("usage") or {}
    return [Choice("".join(texts), reply["status"], usage.get("output_tokens"))]


def _responded_stream(events: list[Any]) -> list[Choice]:
    ends = ("response.completed", "response.incomplete", "response.failed")
    return _responded(next(e["response"] for e in events if e.get("type") in ends))


def _messaged(reply: Any) -> list[Choice]:
    texts = [part.get("text", "") for part in reply["content"]]
    return [Choice("".join(texts), reply["stop_reason"], reply["usage"]["output_tokens"])]


def _messaged_stream(events: list[Any]) -> list[Choice]:
    found = Choice()
    for event in events:
        _no_error(event)
        delta = event.get("delta") or {}
        found.text += delta.get("text") or ""
        found.finish = delta.get("stop_reason") or found.finish
    return [found]


def _ollama(reply: Any) -> list[Choice]:
    _no_error(reply)
    text = reply["response"] if "response" in reply else reply["message"]["content"]
    return [Choice(text, reply.get("done_reason") or "", reply.get("eval_count"))]


def _ollama_stream(events: list[Any]) -> list[Choice]:
    parts = [_ollama(event)[0] for event in events]
    return [Choice("".join(p.text for p in parts), parts[-1].finish, parts[-1].tokens)]


def _no_error(event: Any) -> None:
    if event.get("error") or event.get("type") == "error":
        raise UnreadableError(f"an error inside a 200: {str(event)[:200]}")


_chat_stream = _chunks(lambda one: one["delta"].get("content"))
_READERS: dict[str, tuple[Callable[[Any], list[Choice]], Callable[[list[Any]], list[Choice]]]] = {
    "/generate": (_generated, _generated_stream),
    "/vertex_generate": (_predicted, _generated_stream),
    "/v1/completions": (_completed, _chunks(lambda one: one.get("text"))),
    "/v1/chat/completions": (_chatted, _chat_stream),
    "/v1/responses": (_responded, _responded_stream),
    "/v1/messages": (_messaged, _messaged_stream),
    "/api/chat": (_ollama, _ollama_stream),
    "/api/generate": (_ollama, _ollama_stream),
}
