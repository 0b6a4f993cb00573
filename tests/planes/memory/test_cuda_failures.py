"""Every error that a call of the driver may return, at every call of every operation."""

import re

import pytest
from cuda.bindings import driver as real

from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.reference.driver import GRANULARITY as PAGE
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes
from tests.planes.memory.pages import make_memory, page_view, permissions

REFUSED = real.CUresult.CUDA_ERROR_NOT_PERMITTED


def documented_errors(name):
    """What the real function says it may return."""
    returns = getattr(real, name).__doc__.rpartition("Returns\n")[2].partition("See Also")[0]
    names = sorted(set(re.findall("CUDA_ERROR_[A-Z_]+", returns)))
    assert "CUDA_ERROR_INVALID_VALUE" in names
    return [getattr(real.CUresult, name) for name in names]


class Worker:
    """Pages 0 to 3 at the first places of a range of nine, the extent 6 to 8 at the last; 4, 5, the
    extent 9 to 11, and 12, 13 are spare. All but the last two are exported.
    """

    def __init__(self):
        self.memory = make_memory("cuda")
        self.stand_in = self.memory.stand_in
        self.where = self.memory.reserve(9 * PAGE)
        self.memory.create(6)
        self.memory.map(self.where, 0, range(4))
        self.memory.map(self.where, 6 * PAGE, self.memory.create(3, as_extent=True))
        self.memory.create(3, as_extent=True)
        for position in (*range(4), 6, 7, 8):
            page_view(self.where, position, PAGE)[0] = position + 1
        self.handle = self.memory.export()
        self.memory.create(2)
        self.peer = None

    def open_peer(self):
        self.peer = self.memory.open_peer(self.handle)

    def content(self):
        """The first byte of each accessible page of the range."""
        return [
            int(page_view(self.where, position, PAGE)[0])
            for position, permission in enumerate(permissions(self.where, PAGE))
            if permission == "rw"
        ]

    def state(self):
        """All that a failed operation must leave as it was."""
        return (
            permissions(self.where, PAGE),
            self.content(),
            self.memory.physical_bytes(),
            sorted(self.stand_in.allocations),
            sorted(self.stand_in.mappings),
            sorted(self.stand_in.reservations),
            self.stand_in.open_files(),
        )

    def close(self):
        for thing in (self.peer, self.where, self.memory):
            if thing is not None:
                thing.close()
        self.stand_in.assert_nothing_leaked()


OPERATIONS = {
    "reserve": lambda w: w.memory.reserve(3 * PAGE).close(),
    "create": lambda w: w.memory.create(3),
    "map": lambda w: w.memory.map(w.where, 4 * PAGE, [4, 5]),
    "replace": lambda w: w.memory.map(w.where, PAGE, [3, 5, 4]),
    "unmap": lambda w: w.memory.unmap(w.where, PAGE, 3),
    "create an extent": lambda w: w.memory.create(3, as_extent=True),
    "an extent over pages": lambda w: w.memory.map(w.where, 0, [9, 10, 11]),
    "pages over an extent": lambda w: w.memory.map(w.where, 6 * PAGE, [4, 12, 5]),
    "unmap an extent": lambda w: w.memory.unmap(w.where, 6 * PAGE, 3),
    "export": lambda w: w.memory.export(),
    "open_peer": lambda w: w.open_peer(),
}
# A refusal of these is not undone: what is gone is gone, the rest goes when asked again.
GIVING_BACK = {"cuMemRelease", "cuMemAddressFree"}


def calls_of(operation):
    """(name, which of its kind) of each driver call an operation makes."""
    worker = Worker()
    worker.stand_in.calls.clear()
    operation(worker)
    calls = list(worker.stand_in.calls)
    worker.close()
    return [(name, calls[: index + 1].count(name)) for index, name in enumerate(calls)]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_any_refused_call_changes_nothing_and_names_itself(operation):
    for name, number in calls_of(operation):
        for error in documented_errors(name) if name not in GIVING_BACK else ():
            worker = Worker()
            before = worker.state()
            worker.stand_in.fail(name, number, error)
            with pytest.raises(
                MemoryFault, match=rf"{name} of .*\d+ bytes on GPU 1 failed: {error.name}; \w"
            ):
                operation(worker)
            assert worker.state() == before, (name, number, error)
            operation(worker)
            worker.close()


def test_the_failures_reach_every_call():
    found = {name for operation in OPERATIONS.values() for name, _ in calls_of(operation)}
    assert found | {"cuMemGetAllocationGranularity"} == {
        name for name in dir(ReferenceDriver) if name.startswith("cu")
    }


@pytest.mark.parametrize("name", ["cuMemUnmap", "cuMemAddressFree", "cuMemRelease"])
def test_a_refused_close_can_be_repeated(name):
    for number in (1,) if name == "cuMemAddressFree" else (1, 2, 4):
        worker = Worker()
        worker.stand_in.fail(name, number, REFUSED)
        with pytest.raises(MemoryFault, match=f"{name} .* CUDA_ERROR_NOT_PERMITTED"):
            worker.close()
        worker.close()


def test_a_peers_page_whose_handle_cannot_be_dropped_is_not_mapped():
    worker = Worker()
    before = worker.state()
    worker.stand_in.fail("cuMemRelease", 2, REFUSED)
    with pytest.raises(MemoryFault, match="cuMemRelease"):
        worker.open_peer()
    (kept,) = set(worker.stand_in.allocations) - set(before[3])
    worker.stand_in.cuMemRelease(real.CUmemGenericAllocationHandle(kept))
    assert worker.state() == before
    worker.close()


def test_a_failure_that_cannot_be_undone_says_so_and_can_be_mended():
    worker = Worker()
    worker.stand_in.fail("cuMemMap", 3, real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    worker.stand_in.fail("cuMemMap", 5, REFUSED)
    with pytest.raises(
        MemoryFault, match="cuMemMap .*OUT_OF_MEMORY; .*; undoing it failed as well: cuMemMap .*"
    ):
        worker.memory.map(worker.where, 0, [4, 5, 3, 2])
    assert permissions(worker.where, PAGE) == ["--"] * 6 + ["rw"] * 3
    worker.memory.map(worker.where, 0, range(4))
    assert [int(page_view(worker.where, position, PAGE)[0]) for position in range(4)] == [
        1,
        2,
        3,
        4,
    ]
    assert permissions(worker.where, PAGE) == ["rw"] * 4 + ["--"] * 2 + ["rw"] * 3
    worker.close()


@pytest.mark.parametrize("error", documented_errors("cuMemGetAllocationGranularity"))
def test_a_gpu_that_does_not_answer_is_named(error):
    stand_in = ReferenceDriver()
    stand_in.fail("cuMemGetAllocationGranularity", 1, error)
    with pytest.raises(MemoryFault, match=f"cuMemGetAllocationGranularity .* {error.name}"):
        CudaMemory(PAGE, 0, stand_in, view_bytes)
