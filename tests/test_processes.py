import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.processes import WorkersFailed, run_workers


def _sum_ranks(rank: int, n: int, factor: int) -> tuple[int, int, int]:
    x = torch.tensor([rank * factor])
    dist.all_reduce(x)
    return rank, int(x), torch.get_num_threads()


def _fail_on_rank_1(rank: int, n: int) -> None:
    if rank == 1:
        raise ValueError("a bad day")
    time.sleep(60)


def _die_on_rank_1(rank: int, n: int) -> int:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return rank


def _sleep(rank: int, n: int) -> None:
    time.sleep(60)


def test_results_come_by_rank_from_one_gloo_world():
    assert run_workers(3, _sum_ranks, 10) == [(0, 30, 1), (1, 30, 1), (2, 30, 1)]


def test_a_failure_is_reported_without_waiting_for_the_others():
    start = time.monotonic()
    with pytest.raises(WorkersFailed, match=r"worker 1 of 2: (?s:.*)ValueError: a bad day"):
        run_workers(2, _fail_on_rank_1)
    assert time.monotonic() - start < 20


def test_a_death_is_a_failure_unless_allowed():
    with pytest.raises(WorkersFailed, match="worker 1 of 2: died without a result"):
        run_workers(2, _die_on_rank_1)
    assert run_workers(2, _die_on_rank_1, may_die=(1,)) == [0, None]


def test_late_workers_are_killed():
    with pytest.raises(WorkersFailed, match=r"worker 0 of 1: no result \(limit 2 s"):
        run_workers(1, _sleep, timeout_s=2)
