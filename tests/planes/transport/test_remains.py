"""What a group holds, and what is left of it after a close, a failure or a kill."""

import contextlib
import os
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport import HostGroup, TransportError
from tests.processes import run_workers


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
