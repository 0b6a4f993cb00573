"""A worker freezes: every client hears of it, and nothing of the server is left."""

from tests.serving.fault_cases import run_fault

WORKERS = 4


def test_a_freeze_of_a_busy_joint_worker_reaches_every_client(quartet):
    """The last test of these workers: the server ends."""
    aftermath = run_fault(quartet, WORKERS, "joint busy", "freeze", tokens=150)
    assert len(aftermath.clients) == 2 * WORKERS
    assert not aftermath.problems(), f"{aftermath}\n{quartet.tail()}"
