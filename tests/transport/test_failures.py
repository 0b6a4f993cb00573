"""Dead, frozen, absent and disagreeing peers, and what remains afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.transport import (
    GlooGroup,
    HostGroup,
    PeerLostError,
    TransportError,
    rendezvous,
)
from amoeba_sglang.transport.base import TransportGroup
from amoeba_sglang.transport.segment import SharedSegment
from tests.processes import run_workers

# The groups wait up to 30 s. Limits in seconds tell "noticed" from "timed out" on a busy machine.
_NOTICED_S = 15.0


def _make(kind: type[TransportGroup], timeout_s: float) -> TransportGroup:
    if kind is HostGroup:
        return HostGroup.create(dist.group.WORLD, timeout_s=timeout_s)
    return GlooGroup(dist.group.WORLD, timeout_s)


def _lose(call) -> tuple[tuple[int, ...], str, float, float]:
    start = time.monotonic()
    with pytest.raises(PeerLostError) as caught:
        call()
    return caught.value.ranks, str(caught.value), caught.value.waited_s, time.monotonic() - start


def _outlive_rank_1(rank: int, n: int, kind: type[TransportGroup]):
    group = _make(kind, 30.0)
    x = torch.ones(8, 576)
    group.all_reduce(x)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _lose(lambda: group.all_reduce(x))


@pytest.mark.parametrize("n", [2, 4])
def test_a_dead_peer_is_named_at_once(n: int):
    results = run_workers(n, _outlive_rank_1, HostGroup, may_die=(1,))
    assert results.pop(1) is None
    for ranks, text, _, seconds in results:
        assert ranks == (1,)
        assert re.fullmatch(
            r"worker ranks \[1\] died "
            r"during all_reduce of 18432 bytes, meeting 2; waited \d+\.\d\d s",
            text,
        ), text
        assert seconds < _NOTICED_S


def test_gloo_maps_a_dead_peer():
    (ranks, text, _, seconds), dead = run_workers(2, _outlive_rank_1, GlooGroup, may_die=(1,))
    assert dead is None
    assert ranks == (1,)
    assert seconds < _NOTICED_S
    assert text.startswith("worker ranks [1] are silent or dead, at least one of them (")


def _outwait_rank_1(rank: int, n: int, kind: type[TransportGroup]):
    if kind is HostGroup:
        group = HostGroup.create(dist.group.WORLD, timeout_s=30.0, freeze_s=0.5)
        group.phase = "the test"
    else:
        group = _make(kind, 0.5)
    others = dist.new_group([peer for peer in range(n) if peer != 1])
    pids = group.exchange(np.array([os.getpid()]))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        return None
    try:
        return _lose(lambda: group.exchange(np.arange(3)))
    finally:
        dist.barrier(others)  # thawed too early, rank 1 would exit under somebody's eyes
        os.kill(int(pids[1][0]), signal.SIGCONT)


def test_a_frozen_peer_is_an_error_with_numbers():
    first, frozen, third = run_workers(3, _outwait_rank_1, HostGroup)
    assert frozen is None
    for ranks, text, waited, seconds in (first, third):
        assert ranks == (1,)
        assert re.fullmatch(
            r"worker ranks \[1\] have been stopped for 0\.5 s "
            r"during exchange, meeting 2 of the test; waited \d+\.\d\d s",
            text,
        ), text
        assert 0.5 <= waited <= seconds < _NOTICED_S


def test_gloo_maps_a_frozen_peer():
    (ranks, _, waited, seconds), frozen = run_workers(2, _outwait_rank_1, GlooGroup)
    assert frozen is None
    assert ranks == (1,)
    assert 0.4 <= waited <= seconds < _NOTICED_S


def _share_words(n: int) -> np.ndarray:
    memory = SharedSegment.create(dist.group.WORLD, 8 * n).memory
    return np.frombuffer(memory, dtype=np.int64)


def _meet_late(rank: int, n: int, steps: int, pause_s: float):
    """Rank 1 comes after some steps that take `pause_s` each, far more than the limit together."""
    progress = _share_words(n)
    group = HostGroup.create(dist.group.WORLD, timeout_s=1.0, freeze_s=0.3, progress=progress)
    if rank == 1:
        for _ in range(steps):
            progress[rank] += 1
            time.sleep(pause_s)
    received = group.exchange(np.array([rank]))
    return [int(words[0]) for words in received]


def test_a_peer_that_gets_on_is_waited_for():
    assert run_workers(2, _meet_late, 20, 0.15) == [[0, 1], [0, 1]]


def _stay_away(rank: int, n: int):
    progress = _share_words(n)
    group = HostGroup.create(dist.group.WORLD, timeout_s=0.5, progress=progress)
    loss = None
    if rank == 0:
        group.phase = "the test"
        loss = _lose(lambda: group.exchange(np.arange(3)))
    dist.barrier()
    return loss


def test_a_peer_that_runs_but_does_nothing_is_given_up_with_numbers():
    (ranks, text, waited, seconds), _ = run_workers(2, _stay_away)
    assert ranks == (1,)
    assert re.fullmatch(
        r"worker ranks \[1\] made no progress for 0\.5 s "
        r"during exchange, meeting 1 of the test; waited \d+\.\d\d s",
        text,
    ), text
    assert 0.5 <= waited <= seconds < _NOTICED_S


def _freeze_by_default(rank: int, n: int):
    group = HostGroup.create(dist.group.WORLD)
    pids = group.exchange(np.array([os.getpid()]))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        return None
    try:
        return _lose(group.barrier)
    finally:
        os.kill(int(pids[1][0]), signal.SIGCONT)


def test_a_frozen_peer_is_reported_within_ten_seconds():
    (ranks, text, _, seconds), _ = run_workers(2, _freeze_by_default)
    assert ranks == (1,)
    assert "have been stopped for 8 s" in text
    assert 8 <= seconds < 10


def _stay_behind(rank: int, n: int):
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    group.barrier()
    loss = group.close() if rank == 1 else _lose(group.barrier)
    dist.barrier()  # rank 1 is alive for as long as rank 0 waits
    return loss


def test_a_closed_peer_is_not_waited_for():
    (ranks, text, _, seconds), _ = run_workers(2, _stay_behind)
    assert ranks == (1,)
    assert "left the group" in text
    assert seconds < _NOTICED_S


def _leave_early(rank: int, n: int) -> int:
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    if rank == 2:
        time.sleep(0.3)
    group.barrier()
    return rank


def test_a_peer_may_exit_after_its_last_operation():
    # Rank 1 arrives and exits while rank 0 is kept waiting by rank 2.
    assert run_workers(3, _leave_early) == [0, 1, 2]


def _call_exchange_on_rank_1(group: HostGroup) -> None:
    if group.rank == 1:
        group.exchange(np.arange(3))
    else:
        group.all_reduce(torch.ones(8, 576))


def _disagree(rank: int, n: int):
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    group.barrier()
    texts = []
    with pytest.raises(TransportError) as caught:
        _call_exchange_on_rank_1(group)
    texts.append(str(caught.value))
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    with pytest.raises(TransportError) as caught:
        group.all_reduce(torch.ones(8 + rank))
    texts.append(str(caught.value))
    return texts


@pytest.mark.parametrize("n", [2, 4])
def test_disagreement_is_named_on_every_rank(n: int):
    results = run_workers(n, _disagree)
    for rank, (operations, sizes) in enumerate(results):
        assert "disagree at meeting 2" in operations
        assert "in exchange" in operations
        assert "in all_reduce of 18432 bytes" in operations
        assert f"worker rank {rank} is in all_reduce of {4 * (8 + rank)} bytes" in sizes


def _resources() -> tuple[int, int]:
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("memfd:amoeba-group")


def _open_and_close(rank: int, n: int):
    dist.barrier()
    HostGroup.create(dist.group.WORLD).close()
    before = _resources()
    group = HostGroup.create(dist.group.WORLD)
    group.all_reduce(torch.ones(8, 576))
    group.exchange(np.arange(5))
    during = _resources()
    group.close()
    return before, during, _resources()


def test_close_releases_descriptors_and_memory():
    for before, during, after in run_workers(2, _open_and_close):
        assert before[1] == 0
        assert during[1] == 1
        assert during[0] > before[0]
        assert after == before


def _share_without_descriptors(rank: int, n: int) -> str:
    if rank == 1:
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, highest + 2))
    with pytest.raises(TransportError) as caught:
        HostGroup.create(dist.group.WORLD)
    return str(caught.value)


def test_every_rank_hears_that_one_cannot_share():
    for text in run_workers(2, _share_without_descriptors):
        assert re.match(
            r"cannot share 4198400 bytes between the processes of a group: "
            r"rank 1: .*Too many open files.*; --amoeba-transport collective works without",
            text,
        ), text


def _die_together(rank: int, n: int, notes: Path) -> None:
    group = HostGroup.create(dist.group.WORLD)
    group.all_reduce(torch.ones(8, 576))
    maps = Path("/proc/self/maps").read_text().splitlines()
    (notes / str(rank)).write_text("\n".join(line for line in maps if " rw-s " in line))
    group.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_left_after_sigkill(tmp_path: Path):
    assert run_workers(2, _die_together, tmp_path, may_die=(0, 1)) == [None, None]
    first, second = ((tmp_path / str(rank)).read_text().split() for rank in range(2))
    # One shared mapping, the same in both, of a file without a name.
    assert first[4:] == second[4:]
    inode, *name = first[4:]
    assert name == ["/memfd:amoeba-group", "(deleted)"]
    assert int(inode) not in [entry.inode() for entry in os.scandir("/dev/shm")]
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            assert f" {inode} /memfd:amoeba-group" not in re.sub(" +", " ", maps.read_text())


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
