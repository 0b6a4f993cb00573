"""Dead, frozen, absent and disagreeing peers: every rank hears which one it is, and soon."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport import (
    GlooGroup,
    HostGroup,
    PeerLostError,
    TransportError,
)
from amoeba_sglang.planes.transport.base import TransportGroup
from tests.planes.transport.words import share_words
from tests.processes import run_workers

# The groups wait up to 30 s. Limits in seconds tell "noticed" from "timed out" on a busy machine.
_NOTICED_S = 15.0


def _make(kind: type[TransportGroup], timeout_s: float) -> TransportGroup:
    if kind is HostGroup:
        return HostGroup.create(dist.group.WORLD, timeout_s=timeout_s)
    return GlooGroup(dist.group.WORLD, timeout_s)


@dataclass(frozen=True)
class Loss:
    """A PeerLostError, and how long the call that raised it took."""

    ranks: tuple[int, ...]
    text: str
    waited_s: float
    seconds: float


def _lose(call: Callable[[], object]) -> Loss:
    start = time.monotonic()
    with pytest.raises(PeerLostError) as caught:
        call()
    error = caught.value
    return Loss(error.ranks, str(error), error.waited_s, time.monotonic() - start)


def _check(loss: Loss, says: str, least_s: float = 0.0) -> None:
    """It is the loss of rank 1, in the words `says`, a regular expression, noticed in time."""
    assert loss.ranks == (1,)
    expected = rf"worker ranks \[1\] {says}; waited \d+\.\d\d s"
    assert re.fullmatch(expected, loss.text, re.DOTALL), loss.text
    assert least_s <= loss.waited_s <= loss.seconds < _NOTICED_S


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
    for loss in results:
        _check(loss, "died during all_reduce of 18432 bytes, meeting 2")


def test_gloo_maps_a_dead_peer():
    loss, dead = run_workers(2, _outlive_rank_1, GlooGroup, may_die=(1,))
    assert dead is None
    _check(loss, r"are silent or dead, at least one of them \(.*\) during all_reduce")


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
    for loss in (first, third):
        _check(loss, r"have been stopped for 0\.5 s during exchange, meeting 2 of the test", 0.5)


def test_gloo_maps_a_frozen_peer():
    loss, frozen = run_workers(2, _outwait_rank_1, GlooGroup)
    assert frozen is None
    _check(loss, r"are silent or dead, at least one of them \(.*\) during exchange", 0.4)


def _stay_away(rank: int, n: int):
    progress = share_words(n)
    group = HostGroup.create(dist.group.WORLD, timeout_s=0.5, progress=progress)
    loss = None
    if rank == 0:
        group.phase = "the test"
        loss = _lose(lambda: group.exchange(np.arange(3)))
    dist.barrier()
    return loss


def test_a_peer_that_runs_but_does_nothing_is_given_up_with_numbers():
    loss, _ = run_workers(2, _stay_away)
    _check(loss, r"made no progress for 0\.5 s during exchange, meeting 1 of the test", 0.5)


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
    loss, _ = run_workers(2, _freeze_by_default)
    _check(loss, "have been stopped for 8 s during barrier, meeting 2")
    assert 8 <= loss.seconds < 10


def _stay_behind(rank: int, n: int):
    group = HostGroup.create(dist.group.WORLD, timeout_s=30.0)
    group.barrier()
    loss = group.close() if rank == 1 else _lose(group.barrier)
    dist.barrier()  # rank 1 is alive for as long as rank 0 waits
    return loss


def test_a_closed_peer_is_not_waited_for():
    loss, _ = run_workers(2, _stay_behind)
    _check(loss, "left the group during barrier, meeting 2")


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
