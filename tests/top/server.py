"""An HTTP server that answers every GET alike, and what a desk would say to who looks."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router.events import ViewAsked
from tests.control.router.values import LONG, Case

BEAT = {"tokens_per_second": 12.5, "ttft": 0.25, "tpot": 0.02, "gap": 0.5}


def events_of_a_merge():
    """A view, and frames while a long request waits, its merge runs and it lives."""
    case = Case(POLICIES["amoeba"])

    def look(since):
        [answer] = case.tell(ViewAsked("w", since))
        # As it is after JSON.
        return json.loads(json.dumps(answer.body))

    view = {**look(None), "about": {"model": "a model"}}
    found = [("view", view)]
    for step in (lambda: case.arrive(rid="long", **LONG), case.tick, lambda: case.finish(0, 1)):
        case.now += 0.5
        step()
        case.tick()
        found.append(("frame", {**look(found[-1][1]["now"]), "beat": BEAT}))
    return found


def encode(events):
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()


@contextmanager
def answering(status, body, kind):
    """The address of a server; `asked`, which it also yields, has the headers it was sent."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
