"""The dashboard's queries and the alerts, asked of a real Prometheus that scrapes a real server."""

import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.ops.conftest import OPS
from tests.serving.load import chat_prompts
from tools.dashboard import make_dashboard

LONG = random.Random(7).choices(range(100, 5000), k=1500)
# Of labels that are ours or Prometheus's: each has few values, whatever is asked of a server.
LABELS = {"__name__", "instance", "job", "rank", "kind", "outcome", "what", "state", "le"}


def test_rules_are_right(programs):
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        found = subprocess.run(
            [programs["promtool"], *command], cwd=OPS, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout + found.stderr


def stream(server, prompt):
    """Only of streams are the times between tokens known."""
    sampling = {"max_new_tokens": 80, "ignore_eos": True}
    body = {"text": prompt, "sampling_params": sampling, "stream": True}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=120) as reply:
        assert reply.status_code == 200
        assert sum(line.startswith("data:") for line in reply.iter_lines()) > 10


@pytest.fixture(scope="module")
def used(server, prometheus):
    """After chats, a long prompt that merged the workers, an order that was refused, and a split,
    scraped in the middle of all of it."""
    with ThreadPoolExecutor(4) as pool:
        chats = [pool.submit(stream, server, prompt) for prompt in chat_prompts(3)]
        long = pool.submit(server.generate, LONG, 40)
        assert len(long.result()["output_ids"]) == 40
        for chat in chats:
            chat.result()
    deadline = time.monotonic() + 120
    while any(one["degree"] > 1 for one in server.state()["instances"]):
        assert time.monotonic() < deadline, "the workers do not split"
        time.sleep(0.5)
    for degree in (2, 1):
        assert server.transform([0, 1], degree)[0] == 200
    # Two scrapes after the last change, or a rate has nothing to go by.
    time.sleep(3)
    return prometheus


def test_every_panel_has_data(used):
    empty = []
    for panel in make_dashboard()["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "10m").replace("$instance", ".*")
            found = used.query(query)
            if not found:
                empty.append(f"{panel['title']}: {query}")
            values = [float(one["value"][1]) for one in found]
            assert all(value >= 0 for value in values), f"{panel['title']}: {values}"
    assert not empty, "\n".join([*empty, *sorted(used.ask("label/__name__/values"))])


def test_series_are_few_and_have_no_unbounded_labels(used):
    series = used.ask("series", **{"match[]": '{__name__=~"amoeba_.+"}'})
    assert {label for one in series for label in one} <= LABELS
    # Two workers: gauges by rank, two histograms, and counters by kind and outcome.
    assert 0 < len(series) < 80, len(series)


def test_what_is_shown_is_what_the_server_says(server, used):
    degrees = {
        one["metric"]["rank"]: one["value"][1] for one in used.query("amoeba_instance_degree")
    }
    assert degrees == {"0": "1", "1": "1"}
    done = used.query('sum(amoeba_transformations_total{outcome="done"})')
    history = server.state()["history"]
    assert float(done[0]["value"][1]) == sum(one["outcome"] == "done" for one in history)


def test_no_alert_fires_on_a_healthy_server(used):
    assert [alert["labels"] for alert in used.ask("alerts")["alerts"]] == []
