"""A worker dies: every client hears of it, and nothing of the server is left."""

from tests.e2e.conftest import split_all
from tests.serving.fault_cases import run_fault

WORKERS = 2


def test_a_kill_of_a_busy_joint_worker_reaches_every_client(pair):
    """The last test of these workers: the server ends."""
    split_all(pair)
    aftermath = run_fault(pair, WORKERS, "joint busy", "kill")
    assert len(aftermath.clients) == 2 * WORKERS
    assert not aftermath.problems(), f"{aftermath}\n{pair.tail()}"
