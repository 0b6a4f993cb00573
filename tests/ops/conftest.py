"""Servers as an operator watches them: `make test-ops`. Needs Prometheus, so no part of
`make test`."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.serving.free_port import free_port
from tests.serving.servers import Server

OPS = Path(__file__).resolve().parents[2] / "docs/ops"


@pytest.fixture(scope="session")
def programs():
    """Prometheus and its tool, by name."""
    found = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    for name, path in found.items():
        if path is None:
            pytest.exit(f"{name}: not found; install the Debian package prometheus", returncode=2)
    return found


@pytest.fixture(scope="session")
def server():
    flags = "--tp-size 2 --dtype float32 --max-total-tokens 1024 --enable-metrics"
    with Server(*flags.split()) as running:
        yield running


class Prometheus:
    """A real one that scrapes one server every second."""

    def __init__(self, program, folder, target):
        self.url = f"http://127.0.0.1:{free_port(20000, 29999)}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(OPS / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "amoeba", "static_configs": [{"targets": [target]}]},
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [
                program, f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, path, **given):
        query = urllib.parse.urlencode(given)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as reply:
            return json.load(reply)["data"]

    def query(self, text):
        return self.ask("query", query=text)["result"]

    def wait_up(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "Prometheus ended"
            try:
                if any(one["value"][1] == "1" for one in self.query('up{job="amoeba"}')):
                    return
            except OSError:
                pass
            time.sleep(0.5)
        raise TimeoutError("Prometheus does not see the server as up")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


@pytest.fixture(scope="session")
def prometheus(programs, server, tmp_path_factory):
    target = server.url.removeprefix("http://")
    running = Prometheus(programs["prometheus"], tmp_path_factory.mktemp("prometheus"), target)
    try:
        running.wait_up()
        yield running
    finally:
        running.stop()
