"""Whether an answer is right: a 4xx that names what is wrong, or a 200 that is what was asked for.

A name: the changed field, as its path's parts or as another API or the engine calls the same, or
for a whole body what of it is wrong ("body", "content-type", "method"), for a route that is not
served what the server cannot do (`SUBJECTS`). One of several changed fields is enough. A short name
must be a word of its own.

A 200 must be well-formed, end for a reason that is no abort, have as many choices as asked for and
no more tokens, and where no changed field may change a greedy output, have the text that the plain
body has.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from bench.hostile.answers import Choice, UnreadableError, read_choices
from bench.hostile.bodies import GENERATING, SUBJECTS
from bench.hostile.cases import Case, Expect

_ENDS = frozenset({
    "stop", "length", "tool_calls", "completed", "incomplete", "end_turn", "max_tokens",
    "stop_sequence", "tool_use",
})  # fmt: skip
_LIMITS = ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens")
_SHORT = 4


@dataclass(frozen=True)
class Reply:
    """What came back; status 0 and `error` if nothing did."""

    status: int
    content_type: str = ""
    body: bytes = b""
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """`failure`: "" if all is right, or the kind of what is wrong; `why` in words."""

    failure: str = ""
    why: str = ""


def judge(case: Case, reply: Reply, plain: str | None, phase: str = "") -> Verdict:
    """plain: text of the plain body's answer, None where nobody knows it."""
    expect = case.expect_in(phase)
    if reply.error:
        return Verdict("no answer", reply.error)
    if reply.status >= 500:
        return Verdict(f"status {reply.status}", _text(reply))
    if 400 <= reply.status < 500:
        if expect is Expect.SERVE:
            return Verdict("refused though valid", f"{reply.status}: {_text(reply)}")
        if not is_named(case, reply):
            return Verdict("refused without a name", f"{reply.status}: {_text(reply)}")
        return Verdict()
    if reply.status != 200:
        return Verdict(f"status {reply.status}", _text(reply))
    if expect is Expect.REFUSE:
        return Verdict("accepted", _text(reply))
    if case.route in GENERATING and case.method == "POST":
        return _judge_outputs(case, reply, plain)
    if reply.content_type.startswith("application/json"):
        try:
            json.loads(reply.body or b"null")
        except ValueError as error:
            return Verdict("wrong answer", f"no JSON: {error}")
    return Verdict()


def is_named(case: Case, reply: Reply) -> bool:
    """Whether a refusal says what it is about."""
    text = reply.body.decode(errors="replace").lower()
    names = {name.lower() for m in case.mutations for name in (*m.names, m.field)}
    names |= set(SUBJECTS.get(case.route, ()))
    if not _is_json(case.body):
        names.add("json")
    if reply.status in (404, 405):
        names |= {"not found", "method not allowed"}
    if re.search(r"--[a-z][a-z-]+", text):
        return True
    # Of what the route makes of the whole body.
    length = re.search(r"the prompt has (\d+) tokens", text)
    if length is not None and int(length[1]) < len(case.body):
        return True
    return any(_contains(text, name) for name in names) or not case.mutations


def _is_json(body: bytes) -> bool:
    """As the standard has it, which knows no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _contains(text: str, name: str) -> bool:
    if len(name) >= _SHORT:
        return name in text
    return re.search(rf"(?<![a-z0-9_]){re.escape(name)}(?![a-z0-9_])", text) is not None


def _judge_outputs(case: Case, reply: Reply, plain: str | None) -> Verdict:
    try:
        choices = read_choices(case.route, reply.content_type, reply.body)
    except UnreadableError as error:
        return Verdict("wrong answer", f"{error}: {_text(reply)}")
    for choice in choices:
        if choice.finish not in _ENDS:
            return Verdict("wrong answer", f"ended by {choice.finish!r}: {_text(reply)}")
    wanted = count_choices(case.sent)
    if wanted is not None and len(choices) != wanted:
        return Verdict("wrong answer", f"{len(choices)} choices of {wanted}")
    most = _most_tokens(case.sent)
    if most is not None and any(c.tokens is not None and c.tokens > most for c in choices):
        return Verdict("wrong answer", f"{[c.tokens for c in choices]} tokens of {most}")
    return _compare(case, choices, plain)


def _compare(case: Case, choices: list[Choice], plain: str | None) -> Verdict:
    if not case.same or plain is None:
        return Verdict()
    for choice in choices:
        if choice.text != plain:
            return Verdict("another text", f"{choice.text!r} in place of {plain!r}")
    return Verdict()


def count_choices(sent: dict[str, Any]) -> int | None:
    """How many outputs a body asks for, None where that cannot be said."""
    params = sent.get("sampling_params", sent)
    if not isinstance(params, dict):
        return None
    n = params.get("n", 1) if "sampling_params" in sent else sent.get("n", 1)
    prompts = sent.get("text", sent.get("prompt", sent.get("input_ids")))
    if n is None:
        n = 1
    if type(n) is not int or "instances" in sent:
        return None
    if prompts is None or isinstance(prompts, str):
        return n
    if isinstance(prompts, list) and prompts and type(prompts[0]) in (str, list):
        return n * len(prompts)
    return n if isinstance(prompts, list) and prompts and type(prompts[0]) is int else None


def _most_tokens(sent: dict[str, Any]) -> int | None:
    params = sent.get("sampling_params", sent)
    if not isinstance(params, dict):
        return None
    limits = [params[name] for name in _LIMITS if type(params.get(name)) is int]
    return max(limits) if limits else None


def _text(reply: Reply) -> str:
    return reply.body[:400].decode(errors="replace")
