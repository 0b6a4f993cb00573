"""The warm-up at every degree, against a server that answers from a script."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from amoeba_sglang.frontend import warm_up

TABLE = {"complete": True, "degrees": {}, "source": "measured"}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"throughput": self.server.tables.pop(0)})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers["Authorization"]))
        busy = self.path == "/amoeba/transform" and self.server.busy > 0
        self.server.busy -= busy
        self.answer(409 if busy else 200, {"error": "busy"} if busy else {"outcome": "done"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(warm_up, "time", SimpleNamespace(sleep=lambda seconds: None))
    made = HTTPServer(("127.0.0.1", 0), Answers)
    made.asked, made.busy, made.tables = [], 0, [None, {**TABLE, "complete": False}, TABLE]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def measure(server, file, most_tokens=100_000):
    args = SimpleNamespace(
        url=lambda: f"http://127.0.0.1:{server.server_port}", api_key="k", admin_api_key="admin"
    )
    config = SimpleNamespace(
        degrees=(1, 2, 4), group_size=4, initial_degree=2, throughput_file=str(file)
    )
    warm_up.measure_throughput(args, config, most_tokens)


def test_every_degree_is_run_and_the_layout_comes_back(server, tmp_path):
    server.busy = 2
    measure(server, tmp_path / "table.json")
    changes = [b for path, b, _ in server.asked if path == "/amoeba/transform"]
    # The first was refused twice, since another operation ran.
    assert changes[:2] == [{"ranks": [0], "degree": 1}] * 2
    assert changes[2:] == [
        {"ranks": [0], "degree": 1},
        {"ranks": [0, 1], "degree": 2},
        {"ranks": [0, 1, 2, 3], "degree": 4},
        {"ranks": [0, 1, 2, 3], "degree": 2},
    ]
    keys = {path: key for path, _, key in server.asked}
    assert keys == {"/amoeba/transform": "Bearer admin", "/generate": "Bearer k"}
    assert json.loads((tmp_path / "table.json").read_text()) == TABLE


def test_prompts_fit_a_worker(server, tmp_path):
    measure(server, tmp_path / "table.json", most_tokens=512)
    bodies = [body for path, body, _ in server.asked if path == "/generate"]
    held = [sum(len(prompt) + 12 for prompt in body["input_ids"]) for body in bodies]
    assert max(held) <= 512 and {body["routed_dp_rank"] for body in bodies} == {0}


def test_a_server_that_cannot_be_measured_serves_without(server, tmp_path, caplog):
    server.tables = [{**TABLE, "complete": False}] * 99
    measure(server, tmp_path / "table.json")
    assert "was not measured" in caplog.text and not (tmp_path / "table.json").exists()
