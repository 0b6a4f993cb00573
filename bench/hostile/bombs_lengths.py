"""Requests as long as a chunk, a worker's pool, a merged instance and the context, and a token off.

By prompt, or by an output that is asked for and ends early.
"""

from collections.abc import Iterator
from typing import Any

from amoeba_sglang.control.router.limits import fits
from bench.hostile.bodies import BODIES
from bench.hostile.bomb import Bomb
from bench.hostile.cases import Expect
from bench.hostile.ranges import Bounds

_NAMES = ("input_ids", "prompt", "max_new_tokens", "max_tokens")
_OUTPUT, _PROMPT = 3, 20
_OFF = (-1, 0, 1)
# Every answer has some of them soon.
_STOPS = [" ", "e", "a", "\n"]


def make_lengths(bounds: Bounds) -> Iterator[Bomb]:
    """All of them; in the layouts that hold one it must be served, in all others be refused."""
    for mark, tokens in bounds.marks().items():
        for off in _OFF:
            for prompt, output in ((tokens + off, _OUTPUT), (tokens + off - _OUTPUT, _OUTPUT)):
                yield from _long(f"prompt of {mark} {off:+d}", prompt, output, bounds)
            yield from _long(f"output of {mark} {off:+d}", _PROMPT, tokens + off, bounds)
            yield from _long(f"all of {mark} {off:+d}", _PROMPT, tokens + off - _PROMPT, bounds)
        yield from _open_ends(mark, tokens, bounds)
    chat = BODIES["/v1/chat/completions"][0]
    for mark, tokens in bounds.marks().items():
        body = {**chat, "max_tokens": tokens, "stop": _STOPS}
        expect = Expect.REFUSE if tokens >= bounds.most else Expect.EITHER
        yield Bomb("/v1/chat/completions", f"max_tokens of {mark}", body, _NAMES, expect)


def _long(note: str, prompt: int, output: int, bounds: Bounds) -> Iterator[Bomb]:
    ids, expect = _ids(prompt), _expect(prompt, output, bounds)
    params: dict[str, Any] = {"max_new_tokens": output, "temperature": 0, "stop": _STOPS}
    body = {"input_ids": ids, "sampling_params": params}
    yield Bomb("/generate", f"{note}: {prompt} + {output}", body, _NAMES, expect)
    if prompt < bounds.most:
        completion = {
            **BODIES["/v1/completions"][0], "prompt": ids, "max_tokens": output, "stop": _STOPS,
        }  # fmt: skip
        yield Bomb("/v1/completions", f"{note}: {prompt} + {output}", completion, _NAMES, expect)


def _open_ends(mark: str, tokens: int, bounds: Bounds) -> Iterator[Bomb]:
    """Without a limit on the output: only the prompt must fit."""
    for off in _OFF:
        prompt = tokens + off
        body = {
            **BODIES["/v1/completions"][0], "prompt": _ids(prompt), "stop": _STOPS,
        }  # fmt: skip
        del body["max_tokens"]
        note = f"prompt of {mark} {off:+d}, no max_tokens"
        yield Bomb("/v1/completions", note, body, _NAMES, _expect(prompt, None, bounds))


def _expect(prompt: int, output: int | None, bounds: Bounds) -> Expect:
    if fits(prompt, output, bounds.own):
        return Expect.SERVE
    return Expect.SERVE_MERGED if fits(prompt, output, bounds.most) else Expect.REFUSE


def _ids(count: int) -> list[int]:
    """Of every length other ones, so that no prefix is cached."""
    return [300 + (i * 7 + count * 13) % 4000 for i in range(count)]
