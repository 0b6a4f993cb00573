"""Real servers, shared by the end-to-end tests. Slots are audited."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.servers import MODEL, Server
from tests.serving.shallow_model import make_shallow

# Of the bundled model's 30: enough where only one test asks what the whole model says.
LAYERS = 6
AUTOMATIC_POOL = 512
NARROW_POOL = 512
QUARTET_POOL = 704
# Of one step of a slow worker. 62 takes a few minutes and ended the server once: a peer was given
# up after 60 s, whatever it did.
SLOW_STEP_S = float(os.environ.get("AMOEBA_TEST_STEP_SECONDS", "3"))


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shallow")
    return str(make_shallow(folder, LAYERS, source_dir=MODEL))


@pytest.fixture(scope="session")
def quartet_server(shallow_model):
    """Four workers whose pools are small, for all tests of what a change of the layout, one layer
    at a time, does to requests of every kind."""
    patience = str(20 + 2 * SLOW_STEP_S)
    with Server(
        "--tp-size", "4", "--dtype", "float32", "--max-total-tokens", str(QUARTET_POOL),
        "--chunked-prefill-size", "64", "--max-running-requests", "32",
        # Admits more than fits, so that running requests are retracted.
        "--schedule-conservativeness", "0.05",
        "--amoeba-policy", "static", "--amoeba-layers-per-step", "1", "--skip-server-warmup",
        "--watchdog-timeout", patience, "--amoeba-prepare-timeout-s", patience,
        model=shallow_model, module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def quartet(quartet_server):
    """At degree 1 and with empty caches."""
    start_afresh(quartet_server)
    return quartet_server


@pytest.fixture(scope="session")
def pair(shallow_model):
    """Two workers that merge and split when asked to, for all tests of what one request or order
    does to others.

    Their own pools hold what others merge for, so they also say what is right.
    """
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "4096",
        "--chunked-prefill-size", "512", "--max-running-requests", "32", "--enable-metrics",
        "--amoeba-policy", "static", "--skip-server-warmup",
        "--served-model-name", MODEL,
        model=shallow_model, module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(params=[1, 2], ids="degree {}".format)
def pair_at(request, pair):
    """`pair` at degree 1 and merged; at degree 1 again afterwards."""
    split_all(pair)
    if request.param == 2:
        status, reply = pair.transform([0, 1], 2)
        assert status == 200, reply
    yield pair
    split_all(pair)


@pytest.fixture(scope="session")
def mapping_fault(tmp_path_factory):
    """What is written to this file is done at a mapping of `narrow_pair`; see faulty_worker.py."""
    return tmp_path_factory.mktemp("faults") / "order"


@pytest.fixture(scope="session")
def narrow_pair(mapping_fault, shallow_model):
    """Two workers for requests that only fit into memory that a merge frees from weights."""
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(NARROW_POOL),
        "--chunked-prefill-size", "256", "--amoeba-policy", "static",
        module="tests.e2e.faulty_server",
        model=shallow_model, env={"TEST_FAULT_FILE": str(mapping_fault)},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="session")
def automatic_servers(shallow_model):
    """Two servers of two workers with the default policy and small pools.

    Both start at once: together they take little longer than one.
    """
    pair = [
        Server(
            "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(AUTOMATIC_POOL),
            "--chunked-prefill-size", "256", "--skip-server-warmup",
            "--served-model-name", MODEL,
            model=shallow_model, module="tests.serving.audited",
        )
        for _ in range(2)
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(server.__enter__) for server in pair]
        failed = [start.exception() for start in starts]
    try:
        assert failed == [None, None], failed
        yield pair
    finally:
        for server, error in zip(pair, failed, strict=True):
            if error is None:
                server.stop()


def split_all(server):
    for instance in server.state()["instances"]:
        if instance["degree"] > 1:
            status, reply = server.transform(instance["ranks"], 1)
            assert status == 200, reply


def start_afresh(server):
    """At degree 1 and with empty caches."""
    split_all(server)
    assert server.post("/flush_cache", {})[0] == 200


def wait_for_tokens(server, task, count=0):
    """Return when a request runs and more than `count` tokens are held: a prompt that is longer
    is computed that far, and the answer to a shorter one is on its way. `task` must not end
    before.
    """
    while True:
        instances = server.state()["instances"]
        if any(i["running"] and i["used_tokens"] > count for i in instances):
            return
        assert not task.done(), "it had ended before"
        time.sleep(0.01)
