"""Show the point in a minute: chats stream, a long document comes, workers merge, and split again.

    python -m tools.demo [--url URL] [--seconds 60] [--chats 3]

Starts a server whose pools are smaller than the document, or talks to one that runs, and prints
what happens, second by second, as the server and its clients see it. Ctrl-C ends it. Exit code 1 if
a chat or the document got no answer, or the workers did not split.
"""

import argparse
import itertools
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.top.__main__ import histories
from amoeba_sglang.top.events import ConnectionLost
from tests.serving.servers import Server

_FIRST_DOCUMENT_SECONDS, _EVERY_SECONDS = 8.0, 45.0
# A document has half as many tokens again as a worker. Its prompt is computed in chunks, and the
# chats of its worker get a token beside each of them.
_FLAGS = (
    "--dtype", "float32", "--max-total-tokens", "2048",
    "--chunked-prefill-size", "64", "--enable-mixed-chunk",
)  # fmt: skip
_CHAT_TOKENS, _ANSWER_TOKENS = 120, 40
_QUESTIONS = (
    "What is the tallest mountain on Earth, and who climbed it first?",
    "Write a short story about a lighthouse keeper.",
    "Explain to a child why the sky is blue.",
    "Give me a recipe for pancakes.",
    "What should I see in Lisbon in two days?",
)
_TEXT = Path(__file__).parents[1] / "LICENSE"
# Tokens of English, about.
_CHARACTERS = 4.3


@dataclass
class Chats:
    """What the clients of the chats have seen. `gap`: the longest time between two tokens."""

    tokens: int = 0
    answers: int = 0
    lost: int = 0
    gap: float = 0.0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def take(self) -> "Chats":
        """The figures since the last time."""
        with self.lock:
            found = Chats(self.tokens, self.answers, self.lost, self.gap)
            self.tokens, self.answers, self.lost, self.gap = 0, 0, 0, 0.0
            return found


class Demo:
    """One run against a server."""

    def __init__(self, url: str) -> None:
        self.url, self.began = url, time.monotonic()
        self.chats = Chats()
        self.over = threading.Event()
        self.failed = False
        self._client = httpx.Client(base_url=url, timeout=600.0)
        self._printing = threading.Lock()

    def say(self, text: str) -> None:
        with self._printing:
            print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def chat(self, first: int) -> None:
        """One question after the other, until the demo is over."""
        for question in itertools.islice(itertools.cycle(_QUESTIONS), first, None):
            if self.over.is_set():
                return
            last, count = 0.0, 0
            body = self._body(question, _CHAT_TOKENS) | {"stream": True}
            with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
                for line in reply.iter_lines():
                    if '"content":"' not in line:
                        continue
                    now, count = time.monotonic(), count + 1
                    with self.chats.lock:
                        self.chats.tokens += 1
                        self.chats.gap = max(self.chats.gap, now - last if last else 0.0)
                    last = now
            with self.chats.lock:
                self.chats.answers += 1
                self.chats.lost += count == 0

    def document(self, tokens: int) -> None:
        """A question about a text of about so many tokens."""
        text = _TEXT.read_text()
        needed = round(tokens * _CHARACTERS)
        text = (text * (needed // len(text) + 1))[:needed]
        self.chats.take()
        self.say(f"a document of about {tokens:,} tokens arrives")
        sent = time.monotonic()
        body = self._body(f"{text}\n\nWhat is this text about?", _ANSWER_TOKENS)
        reply = self._client.post("/v1/chat/completions", json=body)
        seconds = time.monotonic() - sent
        if reply.status_code != 200:
            self.failed = True
            self.say(f"it was refused: {reply.text}")
            return
        found = reply.json()
        used, answer = found["usage"]["prompt_tokens"], found["choices"][0]["message"]["content"]
        self.say(
            f"it had {used:,} tokens and is answered after {seconds:.1f} s: {answer[:60]!r}..."
        )

    def watch(self) -> None:
        """Say what the router does."""
        known = 0
        try:
            for history in histories(self.url, ""):
                if self.over.is_set():
                    return
                for line in list(history.log)[known:]:
                    self.say(f"  router: {line.text} ({line.reason})" if line.reason else line.text)
                known = len(history.log)
        except (ConfigError, ConnectionLost) as error:
            self.failed = True
            self.say(f"  router: {error}")

    def state(self) -> dict[str, Any]:
        return self._client.get("/amoeba/state").raise_for_status().json()

    def wait_alone(self, most: float) -> bool:
        """Until every worker is alone again; False if it takes more than `most` seconds."""
        end = time.monotonic() + most
        while time.monotonic() < end:
            if all(one["degree"] == 1 for one in self.state()["instances"]):
                return True
            time.sleep(0.2)
        return False

    @staticmethod
    def _body(content: str, tokens: int) -> dict[str, Any]:
        return {
            "model": "default",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": tokens,
            "temperature": 0,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of a server; default: one is started")
    parser.add_argument("--workers", type=int, default=2, help="of a server that is started")
    parser.add_argument("--port", type=int, default=30000, help="of a server that is started")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="default: until Ctrl-C")
    parser.add_argument("--chats", type=int, default=3)
    options = parser.parse_args(arguments)
    # Whoever ends this ends the server as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            url = options.url
            if url is None:
                flags = ("--tp-size", str(options.workers), *_FLAGS)
                url = stack.enter_context(Server(*flags, port=options.port)).url
            return show(url, options.chats, options.seconds)
    except httpx.HTTPError as error:
        print(f"{options.url}: {error}; is a server of Amoeba there?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def show(url: str, chats: int, seconds: float) -> int:
    """The demo against a server; the exit code."""
    demo = Demo(url)
    own = demo.state()["instances"][0]["max_tokens"]
    print(f"Amoeba is ready at {url}: watch it at {url}/amoeba", flush=True)
    threads = [threading.Thread(target=demo.chat, args=(n,)) for n in range(chats)]
    threads.append(threading.Thread(target=demo.watch))
    for thread in threads:
        thread.start()
    demo.say(f"{chats} chats stream; a worker holds {own:,} tokens")
    try:
        run(demo, own, seconds)
    finally:
        demo.over.set()
        for thread in threads:
            thread.join()
    return int(demo.failed)


def run(demo: Demo, own: int, seconds: float) -> None:
    """A document after some seconds, and again, until the time is over."""
    end, wait = time.monotonic() + seconds, _FIRST_DOCUMENT_SECONDS
    while time.monotonic() + wait < end:
        time.sleep(wait)
        before = demo.chats.take()
        demo.say(f"chats so far: {_words(before)}")
        demo.document(own * 3 // 2)
        if not demo.wait_alone(60.0):
            demo.failed = True
            demo.say("the workers are still merged after a minute")
        found = demo.chats.take()
        demo.say(f"chats since the document came: {_words(found)}")
        demo.failed = demo.failed or bool(found.lost or before.lost)
        wait = _EVERY_SECONDS


def _words(chats: Chats) -> str:
    return (
        f"{chats.tokens} tokens, longest gap {1000 * chats.gap:.0f} ms, {chats.answers} answered, "
        f"{chats.lost} lost"
    )


if __name__ == "__main__":
    sys.exit(main())
