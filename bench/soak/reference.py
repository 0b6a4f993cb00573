"""What the outputs of the cases are on a server that never changes, kept in a file."""

import asyncio
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.hostile.answers import Choice, read_choices
from bench.soak.cases import CHAT, COMPLETIONS, GENERATE, Case, strip_to_prompt

# Log-probabilities by which the first choice of a token must lead. Rounding, which differs between
# batches, may turn closer ones round.
MARGIN = 1e-3
TOLERANCE = 1e-4
_CONCURRENCY = 12
_LONG_ENOUGH = 1000
# Characters.
_MOST_OF_A_TOKEN = 20


@dataclass
class Reference:
    """`outputs`: (text, finish reason) of every choice. `scores`, `ids`: of the rule "scores"."""

    outputs: list[list[str]]
    margin: float
    ids: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class References:
    """A file of references by request; `take` adds those that are missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self._known = {key: Reference(**one) for key, one in known.items()}

    def complete(self, cases: Iterable[Case]) -> list[Case]:
        """The cases with their stop tokens, without those whose greedy output is not certain."""
        found = []
        for case in cases:
            if case.stop_after:
                [start] = strip_to_prompt([case])
                if key(start) not in self._known:
                    continue
                case = case.with_stop(self._known[key(start)].ids[-1])
            reference = self._known.get(key(case))
            if reference is not None and reference.margin >= MARGIN:
                found.append(case)
        return found

    def lacks(self, cases: list[Case]) -> bool:
        return bool(self._missing(strip_to_prompt(cases)) or self._missing(self._whole(cases)))

    def _whole(self, cases: list[Case]) -> list[Case]:
        starts = {
            id(case): self._known.get(key(start))
            for case in cases
            for start in strip_to_prompt([case])
        }
        return [
            case.with_stop(starts[id(case)].ids[-1]) if case.stop_after else case
            for case in cases
            if not case.stop_after or starts[id(case)]
        ]

    def _missing(self, cases: Iterable[Case]) -> list[Case]:
        return [case for case in cases if key(case) not in self._known]

    def of(self, case: Case) -> Reference:
        return self._known[key(case)]

    def take(self, url: str, cases: list[Case]) -> None:
        """Ask a server that holds them all and stays as it is."""
        try:
            asyncio.run(self._take(url, self._missing(strip_to_prompt(cases))))
            asyncio.run(self._take(url, self._missing(self._whole(cases))))
        finally:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({key: asdict(one) for key, one in self._known.items()})
            self._path.write_text(text)

    async def _take(self, url: str, cases: list[Case]) -> None:
        todo = iter(cases)
        timeout = aiohttp.ClientTimeout(total=900)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def ask() -> None:
                for case in todo:
                    self._known[key(case)] = await _reference_of(session, url, case)

            await asyncio.gather(*(ask() for _ in range(_CONCURRENCY)))


def key(case: Case) -> str:
    text = json.dumps([case.route, case.body], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


async def _reference_of(session: aiohttp.ClientSession, url: str, case: Case) -> Reference:
    async with session.post(url + case.route, json=_with_margins(case)) as reply:
        raw = await reply.read()
        if reply.status != 200:
            raise RuntimeError(f"reference of {case.kind}: {reply.status} {raw[:300]!r}")
    body = json.loads(raw)
    choices = read_choices(case.route, "application/json", raw)
    outputs = [[choice.text, choice.finish] for choice in choices]
    found = Reference(outputs, min(_margins(case, body), default=1.0))
    if case.route == GENERATE and isinstance(body, dict):
        found.ids = body["output_ids"]
    if case.rule == "scores":
        found.scores = scores_of(body)
    return found


def _with_margins(case: Case) -> dict[str, Any]:
    """The body with the two likeliest tokens asked for, and an end as late as any layout's."""
    body = dict(case.body)
    if case.rule == "begins" and case.route == CHAT:
        body["max_tokens"] = _LONG_ENOUGH
    extra = {
        GENERATE: {"return_logprob": True, "top_logprobs_num": 2},
        COMPLETIONS: {"logprobs": 2},
        CHAT: {"logprobs": True, "top_logprobs": 2},
    }
    return {**body, **extra.get(case.route, {})}


def _margins(case: Case, body: Any) -> list[float]:
    if case.rule == "ends":
        return []
    if case.route == GENERATE:
        replies = body if isinstance(body, list) else [body]
        tops = [top for one in replies for top in one["meta_info"]["output_top_logprobs"]]
        pairs = [[entry[0] for entry in top] for top in tops]
    elif case.route == CHAT:
        tops = [top for one in body["choices"] for top in one["logprobs"]["content"]]
        pairs = [[entry["logprob"] for entry in top["top_logprobs"]] for top in tops]
    elif case.route == COMPLETIONS:
        tops = [top for one in body["choices"] for top in one["logprobs"]["top_logprobs"]]
        pairs = [list(top.values()) for top in tops]
    else:
        return []
    return [abs(pair[0] - pair[1]) for pair in pairs if len(pair) == 2 and None not in pair]


def scores_of(body: dict[str, Any]) -> list[float]:
    info = body["meta_info"]
    pairs = info["input_token_logprobs"][1:] + info["output_token_logprobs"]
    return [value for value, *_ in pairs]


def compare(case: Case, right: Reference, choices: list[Choice], was_cut: bool) -> str:
    """What is wrong with the outputs; "" if nothing. was_cut: this client has ended the request."""
    if not was_cut and len(choices) != len(right.outputs):
        return f"{len(choices)} choices of {len(right.outputs)}"
    for choice, (text, finish) in zip(choices, right.outputs, strict=False):
        if case.rule == "ends":
            if not was_cut and choice.finish not in ("stop", "length"):
                return f"ended by {choice.finish!r}"
            continue
        begins = text.startswith(choice.text.rstrip("\ufffd"))
        if was_cut and finish == "stop" and choice.text.startswith(text):
            # SGLang cuts off what stops an output only if that is what has ended it.
            begins = len(choice.text) - len(text) <= _MOST_OF_A_TOKEN
        if was_cut or case.rule == "begins":
            if not begins:
                return f"{choice.text!r} in place of the beginning of {text!r}"
            if not was_cut and choice.finish not in (finish, "length"):
                return f"ended by {choice.finish!r}, not {finish!r}"
        elif (choice.text, choice.finish) != (text, finish):
            return f"{choice.text!r} ({choice.finish}) in place of {text!r} ({finish})"
    return ""


def distance(right: Reference, body: dict[str, Any]) -> float:
    """The largest difference of a log-probability, as a share of the largest of them."""
    found = scores_of(body)
    if len(found) != len(right.scores):
        return float("inf")
    worst = max(abs(a - b) for a, b in zip(found, right.scores, strict=True))
    return worst / max(map(abs, right.scores))
