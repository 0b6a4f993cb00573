"""Real servers with four workers, shared by the end-to-end tests. Slots are audited."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from amoeba_sglang.adapters.cpu.backend import KV_PAGE
from tests.serving.servers import MODEL, Server
from tests.serving.shallow_model import make_shallow

# Of the bundled model's 30: enough where only one test asks what the whole model says.
LAYERS = 6
AUTOMATIC_POOL = 512

PAGES = [int(page) for page in os.environ.get("AMOEBA_TEST_PAGES", str(KV_PAGE)).split(",")]


@pytest.fixture(scope="module", params=PAGES, ids="page {}".format)
def page(request):
    """Tokens of a KV page; AMOEBA_TEST_PAGES=1,16 runs all with both, which takes twice as long."""
    return request.param


@pytest.fixture(scope="module")
def server(page):
    with Server(
        "--tp-size", "4", "--dtype", "float32", "--max-total-tokens", "4096",
        "--chunked-prefill-size", "512", "--max-running-requests", "32", "--enable-metrics",
        "--enable-cache-report", "--page-size", str(page), "--amoeba-policy", "static",
        env={"AMOEBA_AUDIT": "1"},
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shallow")
    return str(make_shallow(folder, LAYERS, source_dir=MODEL))


@pytest.fixture(scope="session")
def roomy_server(shallow_model):
    """Two workers whose own pools hold what others merge for: what is right, without changes."""
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "4096",
        "--chunked-prefill-size", "256", "--amoeba-policy", "static",
        model=shallow_model,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="session")
def pair(shallow_model):
    """Two workers that merge and split when asked to, for all tests of what one request or order
    does to others. Slots are audited."""
    with Server(
        "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", "2048",
        "--chunked-prefill-size", "512", "--max-running-requests", "32", "--enable-metrics",
        "--amoeba-policy", "static", "--skip-server-warmup", "--served-model-name", MODEL,
        model=shallow_model, env={"AMOEBA_AUDIT": "1"},
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
def automatic_servers(shallow_model):
    """Two servers of two workers with the default policy and small pools.

    Both start at once: together they take little longer than one.
    """
    pair = [
        Server(
            "--tp-size", "2", "--dtype", "float32", "--max-total-tokens", str(AUTOMATIC_POOL),
            "--chunked-prefill-size", "256", "--skip-server-warmup",
            "--served-model-name", MODEL,
            model=shallow_model, env={"AMOEBA_AUDIT": "1"},
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


@pytest.fixture
def at_degree_one(server):
    """Start and end every test at degree 1."""
    split_all(server)
    yield server
    split_all(server)


def split_all(server):
    for instance in server.state()["instances"]:
        if instance["degree"] > 1:
            status, reply = server.transform(instance["ranks"], 1)
            assert status == 200, reply


# Every change between aligned layouts along the chain 1, 2, 4, as (ranks, degree) steps.
LAYOUT_TOUR = [
    ([0, 1], 2),
    ([2, 3], 2),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 2),
    ([2, 3], 1),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 1),
    ([0, 1, 2, 3], 4),
    ([0, 1, 2, 3], 2),
    ([0, 1], 1),
    ([2, 3], 1),
    ([0, 1, 2, 3], 2),
    ([0, 1, 2, 3], 1),
]
