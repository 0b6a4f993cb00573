"""Peers that are late: they are waited for, cheaply, and may go when they are done."""

import time

import numpy as np
import torch.distributed as dist

from amoeba_sglang.planes.transport import HostGroup, rendezvous
from tests.planes.transport.words import share_words
from tests.processes import run_workers


def _meet_late(rank: int, n: int, steps: int, pause_s: float):
    """Rank 1 comes after some steps that take `pause_s` each, far more than the limit together."""
    progress = share_words(n)
    group = HostGroup.create(dist.group.WORLD, timeout_s=2.0, freeze_s=0.3, progress=progress)
    if rank == 1:
        for _ in range(steps):
            progress[rank] += 1
            time.sleep(pause_s)
    received = group.exchange(np.array([rank]))
    return [int(words[0]) for words in received]


def test_a_peer_that_gets_on_is_waited_for():
    assert run_workers(2, _meet_late, 20, 0.15) == [[0, 1], [0, 1]]


def _leave_early(rank: int, n: int) -> int:
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    if rank == 2:
        time.sleep(0.3)
    group.barrier()
    return rank


def test_a_peer_may_exit_after_its_last_operation():
    # Rank 1 arrives and exits while rank 0 is kept waiting by rank 2.
    assert run_workers(3, _leave_early) == [0, 1, 2]


def _wait_long(rank: int, n: int) -> float:
    group = HostGroup.create(dist.group.WORLD)
    group.barrier()
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(10):
        if rank == 0:
            time.sleep(0.05)
        group.barrier()
    return (time.process_time() - cpu) / (time.monotonic() - wall)


def test_waiting_costs_little_cpu():
    shares = run_workers(4, _wait_long)
    assert sorted(shares)[2] < 0.05, shares


def _sleep_until_woken(rank: int, n: int) -> float:
    rendezvous._PERIOD.seconds = 30
    group = HostGroup.create(dist.group.WORLD)
    start = time.monotonic()
    for late in range(n):
        if rank == late:
            time.sleep(0.1)
        group.barrier()
    return time.monotonic() - start


def test_the_last_to_arrive_wakes_the_sleepers():
    assert max(run_workers(4, _sleep_until_woken)) < 20
