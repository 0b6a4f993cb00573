"""Anonymous memory shared by the ranks of a group."""

from __future__ import annotations

import mmap
import os

import torch.distributed as dist

from amoeba_sglang.planes.transport.base import TransportError
from amoeba_sglang.planes.transport.gather import gather_values


class SharedSegment:
    """The same zeroed bytes in every rank, without a name in any file system.

    Rank 0 owns a memfd, the others open it through /proc/<pid>/fd while rank 0 waits. Afterwards
    only the mappings hold the memory, so it is gone when the last process is, however it ends.
    `memory` is the mapping; `pids` are the process ids by group rank.
    """

    def __init__(self, memory: mmap.mmap, pids: list[int]) -> None:
        self.memory = memory
        self.pids = pids

    @classmethod
    def create(cls, cpu_group: dist.ProcessGroup, nbytes: int) -> SharedSegment:
        """Collective over `cpu_group` (gloo). TransportError everywhere if a rank cannot map it."""
        rank = dist.get_rank(cpu_group)
        own_fd = os.memfd_create("amoeba-group", os.MFD_CLOEXEC) if rank == 0 else None
        memory, failure = None, ""
        try:
            if own_fd is not None:
                os.ftruncate(own_fd, nbytes)
            owners = gather_values(cpu_group, (os.getpid(), own_fd))
            owner_pid, owner_fd = owners[0]
            try:
                memory = _map(own_fd, f"/proc/{owner_pid}/fd/{owner_fd}", nbytes)
            except OSError as error:
                failure = f"rank {rank}: {error}"
            # Also keeps rank 0 from closing its descriptor before everybody has opened it.
            failures = [text for text in gather_values(cpu_group, failure) if text]
        finally:
            if own_fd is not None:
                os.close(own_fd)
        if failures or memory is None:
            raise TransportError(
                f"cannot share {nbytes} bytes between the processes of a group: "
                f"{'; '.join(failures)}; --amoeba-transport collective works without"
            )
        return cls(memory, [pid for pid, _ in owners])


def _map(own_fd: int | None, path: str, nbytes: int) -> mmap.mmap:
    if own_fd is not None:
        return mmap.mmap(own_fd, nbytes)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, nbytes)
    finally:
        os.close(fd)
