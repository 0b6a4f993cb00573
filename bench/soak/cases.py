"""The requests of a soak: the same for the same seed, pool and size, each with what is right.

Prompts come in families with a common beginning, so that prefixes are cached, shared and evicted.
Requests that are longer than one worker's pool are so by their prompt, by their output, or by an
output that they are promised and do not use up: a stop token ends it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.serving.load import TOPICS

VOCABULARY = range(100, 5000)
CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
STREAMED = (GENERATE, COMPLETIONS, CHAT)
_FAMILIES = 6
_SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, '
    '"age": {"type": "integer", "minimum": 1, "maximum": 99}}, "required": ["name", "age"]}'
)
_EBNF = 'root ::= "the " ("sea" | "train" | "old map") " is " [a-z]{3,9} "."'


@dataclass(frozen=True)
class Case:
    """One request. `kind`: its name in counts. `tokens`: what it needs if that is more than a
    worker has, else 0.

    rule: what its outputs are held against: "same" as the reference; "begins" as it, whose limit
    differs; "scores" too, within a tolerance; "ends", if chance makes them.
    forgets: SGLang forgets what the output has counted up when the request is retracted: then
    another one is right, too.
    stop_after: a stop token is still to be taken from the so manieth token of its output.
    """

    kind: str
    route: str
    body: dict[str, Any] = field(hash=False)
    rule: str = "same"
    tokens: int = 0
    forgets: bool = False
    stop_after: int = 0

    def with_stop(self, token: int) -> Case:
        params = {**self.body["sampling_params"], "stop_token_ids": [token]}
        return replace(self, body={**self.body, "sampling_params": params}, stop_after=0)


class Catalogue:
    """Makes the cases. `pool`: tokens of a worker; `most`: of the longest request."""

    def __init__(self, seed: int, pool: int, most: int) -> None:
        self._rng, self._pool, self._most = random.Random(seed), pool, most
        rng = self._rng
        self._heads = [rng.choices(VOCABULARY, k=rng.randint(40, 160)) for _ in range(_FAMILIES)]

    def make(self, scale: float) -> list[Case]:
        """Some of every kind; `scale` times as many as usual, but at least one."""
        makers: list[tuple[Callable[[], Case], int]] = [
            (self._ids, 24), (self._text, 10), (self._chat, 24), (self._completion, 14),
            (self._samples, 8), (self._batch, 5), (self._scores, 10), (self._grammar, 10),
            (self._stops, 6), (self._stop_regex, 4), (self._penalties, 8), (self._least, 4),
            (self._open_end, 8), (self._other_api, 9), (self._sampled, 8), (self._long_prompt, 12),
            (self._long_output, 10), (self._long_promise, 16),
        ]  # fmt: skip
        return [maker() for maker, count in makers for _ in range(max(1, round(scale * count)))]

    def _prompt(self, least: int = 4, most: int = 90) -> list[int]:
        rng = self._rng
        head = rng.choice(self._heads) if rng.random() < 0.7 else []
        return head + rng.choices(VOCABULARY, k=rng.randint(least, most))

    def _words(self) -> str:
        rng = self._rng
        topics = ", ".join(rng.sample(TOPICS, rng.randint(1, 5)))
        return f"Tell me story number {rng.randint(1, 999)} about {topics}."

    def _output(self) -> int:
        # Of equal length they would all end at few boundaries.
        return self._rng.choice((8, 20, 40, 80, 160)) + self._rng.randint(0, 30)

    def _greedy(self, output: int, **params: Any) -> dict[str, Any]:
        # Not `ignore_eos`: for that SGLang sets all tokens of the output aside when it admits a
        # request, and then never retracts one.
        return {"max_new_tokens": output, "temperature": 0, **params}

    def _generate(self, kind: str, rule: str = "same", **params: Any) -> Case:
        body = {
            "input_ids": self._prompt(),
            "sampling_params": self._greedy(**{"output": self._output(), **params}),
        }
        return Case(kind, GENERATE, body, rule)

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._words()}]

    def _chat_body(self, **fields: Any) -> dict[str, Any]:
        body = {"model": "default", "messages": self._messages(), "temperature": 0}
        return {**body, "max_tokens": self._output(), **fields}

    # Kinds

    def _ids(self) -> Case:
        return self._generate("input_ids")

    def _text(self) -> Case:
        return Case("text", GENERATE, {"text": self._words(), "sampling_params": self._greedy(60)})

    def _chat(self) -> Case:
        return Case("chat", CHAT, self._chat_body())

    def _completion(self) -> Case:
        body = {"model": "default", "prompt": self._words(), "temperature": 0}
        return Case("completion", COMPLETIONS, {**body, "max_tokens": self._output()})

    def _samples(self) -> Case:
        n = self._rng.randint(2, 4)
        if self._rng.random() < 0.5:
            return Case("n > 1", CHAT, self._chat_body(n=n))
        return self._generate("n > 1", n=n)

    def _batch(self) -> Case:
        body = {"model": "default", "prompt": [self._words() for _ in range(3)], "temperature": 0}
        return Case("batch", COMPLETIONS, {**body, "max_tokens": 30})

    def _scores(self) -> Case:
        # Another first token each time, or the prompt would come out of the prefix cache.
        length = self._rng.choice((20, 150, 330))
        body = {
            "input_ids": self._rng.choices(VOCABULARY, k=length),
            "sampling_params": self._greedy(self._output()),
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        return Case("log-probabilities", GENERATE, body, "scores")

    def _grammar(self) -> Case:
        kind = self._rng.choice(("regex", "json_schema", "ebnf", "response_format"))
        if kind == "response_format":
            return Case(
                "grammar", CHAT, self._chat_body(max_tokens=60, response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": _schema()},
                }),
            )  # fmt: skip
        value = {
            "regex": rf"[A-Z][a-z]{{3,{self._rng.randint(9, 60)}}}\.",
            "json_schema": _SCHEMA,
            "ebnf": _EBNF,
        }[kind]
        return self._generate("grammar", output=60, **{kind: value})

    def _stops(self) -> Case:
        first, second = self._rng.sample("aeiou", 2)
        stops = [f" {first}", second * 2]
        return self._generate("stop", output=120, stop=stops)

    def _stop_regex(self) -> Case:
        letters = "".join(self._rng.sample("aeiou", 2))
        return self._generate("stop_regex", output=120, stop_regex=f"[{letters}][rst]+")

    def _penalties(self) -> Case:
        # SGLang counts the last token that is known when a step is planned. With overlapped steps
        # that is the one before or the one at hand, as it happens, so that no two runs need agree.
        name = self._rng.choice(("repetition_penalty", "frequency_penalty", "presence_penalty"))
        return self._generate("penalties", "ends", **{name: 1.3})

    def _least(self) -> Case:
        bias = {str(self._rng.choice(VOCABULARY)): 3.0 for _ in range(3)}
        case = self._generate("min_new_tokens", output=90, min_new_tokens=70, logit_bias=bias)
        return replace(case, forgets=True)

    def _open_end(self) -> Case:
        if self._rng.random() < 0.5:
            body = self._chat_body()
            del body["max_tokens"]
            return Case("no max_tokens", CHAT, body, "begins")
        body = {"input_ids": self._prompt(), "sampling_params": {"temperature": 0}}
        # SGLang's own default is 128.
        return Case("no max_tokens", GENERATE, body, "begins")

    def _other_api(self) -> Case:
        words, output = self._words(), 40
        routes = {
            "/v1/responses": {
                "model": "default", "input": words, "max_output_tokens": output, "temperature": 0,
            },
            "/v1/messages": {
                "model": "default", "messages": [{"role": "user", "content": words}],
                "max_tokens": output, "temperature": 0,
            },
            "/api/chat": {
                "model": "default", "messages": [{"role": "user", "content": words}],
                "stream": False, "options": {"num_predict": output, "temperature": 0},
            },
        }  # fmt: skip
        route = self._rng.choice(list(routes))
        return Case("other APIs", route, routes[route])

    def _sampled(self) -> Case:
        params = {"temperature": 0.9, "top_p": 0.9, "sampling_seed": self._rng.randrange(2**31)}
        return self._generate("sampled", "ends", **params)

    def _long(self, kind: str, prompt: int, output: int, stop_after: int = 0) -> Case:
        # Whoever shares a beginning hits the cached part of a long prompt that outlasts layouts.
        head = self._rng.choice(self._heads)
        rest = self._rng.choices(VOCABULARY, k=max(1, prompt - len(head)))
        body = {"input_ids": head + rest, "sampling_params": self._greedy(output)}
        tokens = len(body["input_ids"]) + output
        return Case(kind, GENERATE, body, tokens=tokens, stop_after=stop_after)

    def _long_prompt(self) -> Case:
        length = self._rng.randint(self._pool, min(4 * self._pool, self._most - 40))
        return self._long("long prompt", length, self._rng.randint(4, 30))

    def _long_output(self) -> Case:
        prompt = self._rng.randint(self._pool - 150, self._pool - 20)
        return self._long("long output", prompt, self._pool - prompt + self._rng.randint(20, 80))

    def _long_promise(self) -> Case:
        prompt = self._rng.randint(30, self._pool)
        tokens = self._rng.randint(self._most // 2, self._most)
        return self._long(
            "long promise", prompt, tokens - prompt, stop_after=self._rng.randint(10, 60)
        )


def _schema() -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


def strip_to_prompt(cases: list[Case]) -> Iterator[Case]:
    """The cases whose stop token is not known yet, with outputs as long as needed to choose it."""
    for case in cases:
        if case.stop_after:
            params = {**case.body["sampling_params"], "max_new_tokens": case.stop_after}
            yield replace(case, body={**case.body, "sampling_params": params})
