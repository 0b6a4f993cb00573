"""What the tests of both backends share: small memories, and a look at their ranges."""

import torch

from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.memory.host import HostMemory
from amoeba_sglang.planes.reference.driver import GRANULARITY, ReferenceDriver, view_bytes


def make_memory(backend):
    """A "host" memory, or a "cuda" one on the stand-in (its attribute `stand_in`)."""
    if backend == "host":
        return HostMemory(65536)
    stand_in = ReferenceDriver(device=1)
    memory = CudaMemory(GRANULARITY, 1, stand_in, view_bytes)
    memory.stand_in = stand_in
    return memory


def areas(where):
    """(start, end, permissions) of the process's mappings inside a range, in order."""
    found = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, permissions = line.split()[:2]
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = max(start, where.address), min(end, where.address + where.size)
            if start < end:
                found.append((start - where.address, end - where.address, permissions))
    return found


def permissions(where, page_size):
    """ "rw", "r-" or "--" for every page of a range."""
    return [
        found[:2] for start, end, found in areas(where) for _ in range((end - start) // page_size)
    ]


def page_view(where, position, page_size):
    return where.tensor(position * page_size, (page_size,), torch.uint8)


def mapped(memory, count):
    """A range of `count` new pages in order, and their ids."""
    where = memory.reserve(count * memory.page_size)
    pages = memory.create(count)
    memory.map(where, 0, pages)
    return where, pages
