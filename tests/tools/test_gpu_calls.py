"""The page that says what of the CUDA path has run on what."""

from tools.gpu_calls import PAGE, RUN, find_calls, make_page


def test_every_call_has_an_entry_and_every_entry_a_call():
    found = {name for name, _ in find_calls()}
    assert not found - RUN.keys(), "say in tools/gpu_calls.py what these have run on"
    assert not RUN.keys() - found, "these are called no more"


def test_the_page_is_that_of_the_code():
    assert PAGE.read_text() == make_page(), "write it anew: python -m tools.gpu_calls"


def test_calls_are_found_where_they_are():
    found = find_calls()
    assert ("cuMemUnmap", "planes/memory/driver.py: Driver.unmap") in found
    assert ("turn_cycle[]", "planes/kernels/device_mover.py: DeviceKVMover._launch") in found
    assert ("self._cuda.graph", "planes/device/cuda.py: CudaDevice.capture") in found
