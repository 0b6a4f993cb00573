"""What the page costs: python -m bench.page [--pairs 8]. Needs the Debian package chromium.

Bytes on the wire and time to the first paint in a fresh browser; processor time of the server while
nobody, one and 50 look; how late events are; and bench_serving with 50 readers of the events and
without, in turn. A reader is a connection whose bytes are thrown away: pages are drawn on other
machines than the server's.
"""

import argparse
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from playwright.sync_api import Browser

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.top.events import follow
from bench import results_file
from bench.footprint import cpu_percent
from bench.pairs import median_interval
from bench.throughput import ServingLoad, run_bench_serving
from tests.serving.browser import LAPTOP, open_browser
from tests.serving.servers import Server

READERS = 50
_FLAGS = "--tp-size 2 --dtype float32 --max-total-tokens 16384 --amoeba-policy static"
_LOAD = ServingLoad(input_len=32, output_len=96, num_prompts=32)
_PAINTS, _CHANGES = 5, 10
_RESTS, _REST_SECONDS = 4, 20.0
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=8)
    options = parser.parse_args()
    with Server(*_FLAGS.split()) as server:
        server.generate("One two three", 8)
        try:
            with open_browser() as browser:
                shown = [paint(browser, server) for _ in range(_PAINTS)]
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        figures = {
            "bytes_on_the_wire": shown[0]["bytes"],
            "first_paint_ms": results_file.spread([one["paint"] for one in shown]),
            "cpu_percent_of_a_core": rest(server),
            "event_behind_s": results_file.spread(lags(server)),
            "throughput": pairs(server, options.pairs),
        }
    results_file.write("page", {"settings": vars(options), "readers": READERS, **figures})
    return 0


def paint(browser: Browser, server: Server) -> dict[str, float]:
    """Of a browser that has seen nothing: milliseconds to the first paint, and bytes received."""
    context = browser.new_context(viewport=LAPTOP)
    page, sizes = context.new_page(), []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()))
    page.goto(f"{server.url}/amoeba/")
    page.wait_for_selector("#instances strong")
    found = page.evaluate(_PAINTED)
    context.close()
    parts = ("responseBodySize", "responseHeadersSize")
    return {"paint": found, "bytes": sum(one[part] for one in sizes for part in parts)}


@contextmanager
def readers(server: Server, count: int):
    """So many take the events meanwhile and throw them away; RuntimeError if a stream ends."""
    over = threading.Event()

    def take(streams: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                selector.register(stream, selectors.EVENT_READ)
            while not over.is_set():
                for key, _ in selector.select(0.5):
                    if not key.fileobj.recv(2**16):
                        raise RuntimeError("the server closed a stream of events")

    with ExitStack() as opened, ThreadPoolExecutor(1) as pool:
        streams = [opened.enter_context(open_stream(server)) for _ in range(count)]
        taking = pool.submit(take, streams)
        try:
            # Until all have their first frame.
            time.sleep(2)
            yield
        finally:
            over.set()
        taking.result()


def open_stream(server: Server) -> socket.socket:
    """The events, as bytes."""
    stream = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    stream.sendall(b"GET /amoeba/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return stream


def rest(server: Server) -> dict[int, dict[str, float]]:
    """Processor time of the idle server by how many look."""
    found: dict[int, list[float]] = {0: [], 1: [], READERS: []}
    for _ in range(_RESTS):
        for count, percents in found.items():
            with readers(server, count):
                percents.append(cpu_percent(server, _REST_SECONDS)["all"])
    return {count: results_file.spread(percents) for count, percents in found.items()}


def lags(server: Server) -> list[float]:
    """From the answer to an order to the event that says so."""
    heard: dict[str, float] = {}
    over = threading.Event()

    def read() -> None:
        for _, data in follow(server.url, ""):
            for record in data.get("ended", ()):
                heard.setdefault(record["operation_id"], time.monotonic())
            if over.is_set():
                return

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(2)
    answered = {}
    for number in range(_CHANGES):
        status, reply = server.transform([0, 1], 2 if number % 2 == 0 else 1)
        assert status == 200, reply
        answered[reply["operation_id"]] = time.monotonic()
        # Not in step with the frames.
        time.sleep(1.3)
    over.set()
    thread.join()
    return [max(0.0, heard[name] - at) for name, at in answered.items()]


def pairs(server: Server, count: int) -> dict[str, Any]:
    """Seconds of bench_serving without readers over those with them: below 1 they cost."""
    found = []
    for number in range(-1, count):
        seconds = {}
        for many in (0, READERS) if number % 2 == 0 else (READERS, 0):
            with readers(server, many):
                done = run_bench_serving(server, _LOAD, workers=2, seed=max(0, number))
                seconds[many] = done["duration"]
        # The first one warms up.
        if number >= 0:
            found.append({"alone": seconds[0], "watched": seconds[READERS]})
    ratios = [one["alone"] / one["watched"] for one in found]
    return {"pairs": found, "ratio": asdict(median_interval(ratios))}


if __name__ == "__main__":
    sys.exit(main())
