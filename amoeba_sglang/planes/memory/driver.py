"""The CUDA driver's calls for virtual memory on one GPU, with errors a user can act on.

Not yet run on a GPU; tested through a stand-in for the driver.
"""

from types import ModuleType
from typing import Any

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory.base import MemoryFault

_COLLECTIVE = "use --amoeba-transport collective"
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "lower --mem-fraction-static, or free memory of this GPU",
    "CUDA_ERROR_INVALID_VALUE": "try another --amoeba-page-size-kib, or a newer NVIDIA driver",
    "CUDA_ERROR_INVALID_DEVICE": "the GPUs must reach each other's memory (`nvidia-smi topo -p2p "
    f"r`), else {_COLLECTIVE}",
    "CUDA_ERROR_NOT_SUPPORTED": "this GPU, driver or virtual machine lacks virtual memory that can "
    f"be shared: {_COLLECTIVE}",
    "CUDA_ERROR_NOT_PERMITTED": "the container or the system forbids it: loosen its limits, or "
    f"{_COLLECTIVE}",
    "CUDA_ERROR_NOT_INITIALIZED": "this process must initialise CUDA first (torch.cuda.init())",
    "CUDA_ERROR_DEINITIALIZED": "this process is ending",
    "CUDA_ERROR_ILLEGAL_STATE": "NVIDIA's services are not in order: check `nvidia-smi` and dmesg",
}
_UNKNOWN = "see dmesg for lines of the NVIDIA driver, and restart the server"


class Driver:
    """The calls for allocations of pages, `page_size` bytes each, of GPU `device`; each raises
    MemoryFault. An allocation is mapped and unmapped whole.

    `module`: cuda.bindings.driver or something with its functions, structs and enums. ConfigError
    if the GPU cannot have pages of this size. This process has initialised CUDA on the GPU.
    """

    def __init__(self, page_size: int, device: int, module: ModuleType) -> None:
        self.page_size = page_size
        self._device = device
        self._module = module
        self._properties = self._describe_pages()
        unit = self._call(
            "cuMemGetAllocationGranularity",
            self._properties,
            module.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM,
        )
        self.smallest_page = unit
        if page_size <= 0 or page_size & (page_size - 1) or page_size % unit:
            raise ConfigError(
                f"--amoeba-page-size-kib {page_size / 1024:g}: must be a power of two and a "
                f"multiple of {unit // 1024}, the granularity of GPU {device}"
            )

    def reserve(self, size: int) -> int:
        """The first of `size` bytes of addresses, aligned to the page size."""
        return int(
            self._call("cuMemAddressReserve", size, self.page_size, 0, 0, what=f"{size} bytes")
        )

    def free(self, address: int, size: int) -> None:
        """Give addresses back as they were reserved; nothing may be mapped there."""
        self._call("cuMemAddressFree", address, size, what=f"{size} bytes")

    def create(self, count: int) -> Any:
        """The handle of a new allocation of `count` pages."""
        size = count * self.page_size
        return self._call("cuMemCreate", size, self._properties, 0, what=f"{size} bytes")

    def release(self, handle: Any) -> None:
        """Drop a handle; its memory lasts as long as it is mapped anywhere."""
        self._call("cuMemRelease", handle)

    def map(self, address: int, count: int, handle: Any) -> None:
        """Put an allocation of `count` pages where nothing is mapped; nobody may access it before
        `allow`."""
        size = count * self.page_size
        self._call("cuMemMap", *(address, size, 0, handle, 0), what=f"{size} bytes")

    def unmap(self, address: int, count: int) -> None:
        """Take an allocation of `count` pages away from its address."""
        size = count * self.page_size
        self._call("cuMemUnmap", address, size, what=f"{size} bytes")

    def allow(self, address: int, count: int, writable: bool) -> None:
        """Let the GPU read, or read and write, `count` mapped pages in a row."""
        flags = self._module.CUmemAccess_flags
        access = self._module.CUmemAccessDesc()
        access.location.type = self._module.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = self._device
        access.flags = (
            flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
            if writable
            else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
        )
        size = count * self.page_size
        self._call("cuMemSetAccess", address, size, [access], 1, what=f"{size} bytes")

    def export(self, handle: Any) -> int:
        """A file descriptor of an allocation, to be closed by the caller; it keeps the memory."""
        return int(self._call("cuMemExportToShareableHandle", handle, self._shared_as(), 0))

    def open(self, descriptor: int) -> Any:
        """The handle of an allocation that a peer exported; the descriptor stays the caller's."""
        return self._call("cuMemImportFromShareableHandle", descriptor, self._shared_as())

    def _describe_pages(self) -> Any:
        kinds, places = self._module.CUmemAllocationType, self._module.CUmemLocationType
        properties = self._module.CUmemAllocationProp()
        properties.type = kinds.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = places.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = self._device
        properties.requestedHandleTypes = self._shared_as()
        return properties

    def _shared_as(self) -> Any:
        types = self._module.CUmemAllocationHandleType
        return types.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

    def _call(self, name: str, *arguments: Any, what: str = "") -> Any:
        what = f"{name} of {what or f'pages of {self.page_size} bytes'} on GPU {self._device}"
        return call_driver(self._module, name, *arguments, what=what)


def call_driver(module: ModuleType, name: str, *arguments: Any, what: str) -> Any:
    """What a function of the driver returns, None for nothing. MemoryFault, which begins with
    `what`, if it refuses or there is no driver."""
    try:
        result, *values = getattr(module, name)(*arguments)
    except RuntimeError as error:
        # The bindings raise this when they do not find the library or the function in it.
        reason = " ".join(str(error).split())
        raise MemoryFault(f"{what}: no usable NVIDIA driver (libcuda.so.1): {reason}") from error
    if result != module.CUresult.CUDA_SUCCESS:
        raise MemoryFault(f"{what} failed: {result.name}; {_ADVICE.get(result.name, _UNKNOWN)}")
    return values[0] if values else None


def load_bindings() -> ModuleType:
    """cuda.bindings.driver; ConfigError without it. It does not need a GPU, its calls do."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise ConfigError(
            f"cuda.bindings.driver cannot be imported ({error}): `pip install cuda-python`"
        ) from error
    return driver
