"""The stand-in notices what a GPU's driver would refuse, and what it would not notice itself."""

import os

import pytest
from cuda.bindings import driver as real

from amoeba_sglang.planes.reference.driver import GRANULARITY as UNIT
from amoeba_sglang.planes.reference.driver import Misuse, ReferenceDriver

POSIX = real.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
FABRIC = real.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_FABRIC
DEVICE = real.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
HOST = real.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST
WRITE = real.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
MINIMUM = real.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM


def properties(device=0, place=DEVICE, kind=POSIX):
    prop = real.CUmemAllocationProp()
    prop.type = real.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    prop.location.type = place
    prop.location.id = device
    prop.requestedHandleTypes = kind
    return prop


def access(device=0, place=DEVICE):
    description = real.CUmemAccessDesc()
    description.location.type = place
    description.location.id = device
    description.flags = WRITE
    return [description]


class Machine:
    """Four reserved pages, two handles, the first mapped at the first page."""

    def __init__(self):
        self.cuda = ReferenceDriver()
        _, base = self.cuda.cuMemAddressReserve(4 * UNIT, UNIT, 0, 0)
        self.base = int(base)
        _, self.page = self.cuda.cuMemCreate(UNIT, properties(), 0)
        _, self.spare = self.cuda.cuMemCreate(UNIT, properties(), 0)
        self.cuda.cuMemMap(self.base, UNIT, 0, self.page, 0)

    def clear(self):
        for start in list(self.cuda.mappings):
            self.cuda.cuMemUnmap(start, UNIT)
        for handle in list(self.cuda.allocations):
            self.cuda.cuMemRelease(real.CUmemGenericAllocationHandle(handle))
        for start, reserved in list(self.cuda.reservations.items()):
            self.cuda.cuMemAddressFree(start, reserved.size)


def release_twice(m):
    m.cuda.cuMemRelease(m.spare)
    m.cuda.cuMemRelease(m.spare)


def map_released(m):
    m.cuda.cuMemRelease(m.spare)
    m.cuda.cuMemMap(m.base + UNIT, UNIT, 0, m.spare, 0)


MISUSES = {
    "reserve an odd size": lambda m: m.cuda.cuMemAddressReserve(UNIT + 4096, UNIT, 0, 0),
    "reserve at an odd alignment": lambda m: m.cuda.cuMemAddressReserve(UNIT, 3 * UNIT, 0, 0),
    "create an odd size": lambda m: m.cuda.cuMemCreate(UNIT // 2, properties(), 0),
    "create elsewhere": lambda m: m.cuda.cuMemCreate(UNIT, properties(device=1), 0),
    "create in the host": lambda m: m.cuda.cuMemCreate(UNIT, properties(place=HOST), 0),
    "create for a fabric": lambda m: m.cuda.cuMemCreate(UNIT, properties(kind=FABRIC), 0),
    "create of no kind": lambda m: m.cuda.cuMemCreate(UNIT, real.CUmemAllocationProp(), 0),
    "create with flags": lambda m: m.cuda.cuMemCreate(UNIT, properties(), 1),
    "map over a page": lambda m: m.cuda.cuMemMap(m.base, UNIT, 0, m.spare, 0),
    "map between pages": lambda m: m.cuda.cuMemMap(m.base + UNIT + 4096, UNIT, 0, m.spare, 0),
    "map a part": lambda m: m.cuda.cuMemMap(m.base + UNIT, UNIT // 2, 0, m.spare, 0),
    "map from inside": lambda m: m.cuda.cuMemMap(m.base + UNIT, UNIT, UNIT, m.spare, 0),
    "map too much": lambda m: m.cuda.cuMemMap(m.base + UNIT, 2 * UNIT, 0, m.spare, 0),
    "map behind the end": lambda m: m.cuda.cuMemMap(m.base + 4 * UNIT, UNIT, 0, m.spare, 0),
    "map a released handle": map_released,
    "map a number": lambda m: m.cuda.cuMemMap(m.base + UNIT, UNIT, 0, 2, 0),
    "access to a gap": lambda m: m.cuda.cuMemSetAccess(m.base, 2 * UNIT, access(), 1),
    "access to half a page": lambda m: m.cuda.cuMemSetAccess(m.base, UNIT // 2, access(), 1),
    "access to nothing": lambda m: m.cuda.cuMemSetAccess(m.base + UNIT, UNIT, access(), 1),
    "access elsewhere": lambda m: m.cuda.cuMemSetAccess(m.base, UNIT, access(device=1), 1),
    "access of the host": lambda m: m.cuda.cuMemSetAccess(m.base, UNIT, access(place=HOST), 1),
    "access miscounted": lambda m: m.cuda.cuMemSetAccess(m.base, UNIT, access(), 2),
    "unmap half a page": lambda m: m.cuda.cuMemUnmap(m.base, UNIT // 2),
    "unmap nothing": lambda m: m.cuda.cuMemUnmap(m.base + UNIT, UNIT),
    "unmap more": lambda m: m.cuda.cuMemUnmap(m.base, 2 * UNIT),
    "release twice": release_twice,
    "free what is mapped": lambda m: m.cuda.cuMemAddressFree(m.base, 4 * UNIT),
    "free a part": lambda m: m.cuda.cuMemAddressFree(m.base + UNIT, UNIT),
    "free what is not reserved": lambda m: m.cuda.cuMemAddressFree(m.base + (1 << 40), UNIT),
    "export otherwise": lambda m: m.cuda.cuMemExportToShareableHandle(m.page, FABRIC, 0),
    "import a stranger": lambda m: m.cuda.cuMemImportFromShareableHandle(0, POSIX),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_misuse_fails_and_is_remembered(misuse):
    machine = Machine()
    with pytest.raises(Misuse):
        misuse(machine)
    machine.clear()
    with pytest.raises(AssertionError, match=r"^\[.cuMem"):
        machine.cuda.assert_nothing_leaked()


def test_leaks_are_named():
    machine = Machine()
    cuda = machine.cuda
    _, descriptor = cuda.cuMemExportToShareableHandle(machine.page, POSIX, 0)
    leaks = {
        "still mapped": lambda: cuda.cuMemUnmap(machine.base, UNIT),
        "still reserved": lambda: cuda.cuMemAddressFree(machine.base, 4 * UNIT),
        "handles not released": machine.clear,
        "descriptors": lambda: os.close(descriptor),
    }
    for name, mend in leaks.items():
        with pytest.raises(AssertionError, match=name):
            cuda.assert_nothing_leaked()
        mend()
    cuda.assert_nothing_leaked()


def test_a_planned_failure_comes_once_at_its_call():
    cuda = ReferenceDriver()
    refused = real.CUresult.CUDA_ERROR_NOT_PERMITTED
    cuda.fail("cuMemGetAllocationGranularity", 2, refused)
    with pytest.raises(AssertionError, match="never came"):
        cuda.assert_nothing_leaked()
    answers = [cuda.cuMemGetAllocationGranularity(properties(), MINIMUM) for _ in range(3)]
    assert answers == [(0, UNIT), (refused, None), (0, UNIT)]
    cuda.assert_nothing_leaked()
