"""Write docs/gpu.md: every call of the CUDA path that reaches the driver, a kernel or NCCL, and
what it has run on.

    python -m tools.gpu_calls

The calls are found in the code; what each has run on stands in RUN here. A test keeps the page, and
lets no call be without an entry.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/gpu.md"
PATHS = (
    "planes/memory/driver.py",
    "planes/memory/peers.py",
    "planes/memory/cuda_range.py",
    "planes/device/cuda.py",
    "planes/kernels",
    "adapters/cuda",
)
_DRIVER = re.compile(r"cu[A-Z]\w+")
_CALLEES = re.compile(
    r"self\._cuda\.|^cuda\.|torch\.cuda\.|^turn_cycle\[|^group\.|^self\._group\.all|begin_forward$"
    r"|init_forward_metadata$|^flashinfer_backend\.|^graph\.|^tl\.|AttnBackend"
)

REFERENCE = "the REFERENCE device, in servers"
COMPILED = "the REFERENCE device, by Triton's interpreter; compiled for sm_80, sm_90 and sm_100"
STAND_IN = "stand-ins in unit tests"
NOTHING = "nothing"
RUN = {
    **dict.fromkeys(
        (
            "cuMemAddressFree", "cuMemAddressReserve", "cuMemCreate", "cuMemRelease",
            "cuMemExportToShareableHandle", "cuMemImportFromShareableHandle",
            "cuMemGetAllocationGranularity", "cuMemMap", "cuMemSetAccess", "cuMemUnmap",
            "self._cuda.Stream", "self._cuda.current_stream", "self._cuda.empty_cache",
            "self._cuda.set_device", "self._cuda.set_stream", "self._cuda.synchronize",
            "flashinfer_backend.BatchDecodeWithPagedKVCacheWrapper",
            "self.init_forward_metadata", "self.prefill_wrappers_paged[0].begin_forward",
            "wrapper.begin_forward",
        ),
        REFERENCE,
    ),
    **dict.fromkeys(("tl.", "turn_cycle[]"), COMPILED),
    **dict.fromkeys(
        (
            "cuInit", "cuDeviceGet", "cuDeviceGetCount", "cuDeviceCanAccessPeer",
            "cuda.device_count", "cuda.get_device_capability", "cuda.is_available",
            "self._group.all_gather", "group.all_gather", "group.all_reduce",
        ),
        STAND_IN,
    ),
    **dict.fromkeys(
        (
            "self._cuda.mem_get_info", "self._cuda.CUDAGraph", "self._cuda.graph", "graph.pool",
            "group.graph_capture", "torch.cuda.current_device",
        ),
        NOTHING,
    ),
}  # fmt: skip

# Held by a test: stock SGLang and a worker alone read there, and nothing else does in any step.
UPSTREAM_READS = {
    "sglang/srt/utils/common.py: async_d2h": "after the step, into pinned memory: the sampled ids "
    "and, where a request asks for them, log-probabilities",
}

_INTRO = """# What of the CUDA path has run on what

Written by `python -m tools.gpu_calls` from the code, and held against it by a test. Nothing has
run on a GPU. A server with `--device cuda --amoeba-reference-device sm90` (or sm80, sm100) runs on
the REFERENCE device: the driver's calls over host memory, streams that refuse what a GPU would
race on, graphs that replay calls, attention calls held against the signatures of FlashInfer,
FlashAttention 3 and upstream's Triton kernels and computed by torch. That proves addresses,
bookkeeping and order. It says nothing of kernels' arithmetic, of the driver's behaviour, or of
speed.

Never run anywhere, since only a GPU reaches it: SGLang's own graph runners (degree 1, prompts),
its kernel library (FlashAttention 3 is a part of it), FlashInfer's and Triton's attention kernels
and sampling, NCCL and custom all-reduce.

| call | in | has run on |
|---|---|---|
"""

_READS = """
## Where a step reads from the device

A decode step, a mixed one and a prefill, at degree 1, 2, 4 and in the middle of a change, run on
tensors that are on a GPU in name only, from which a read is seen. Nothing of this package reads
any. Upstream's code does here, in a worker alone as in stock SGLang:

| place | what |
|---|---|
"""


def find_calls() -> list[tuple[str, str]]:
    """(callee, where) of each place, in order; callees of Triton's language are one."""
    found = []
    for path in PATHS:
        whole = ROOT / "amoeba_sglang" / path
        for file in sorted(whole.glob("*.py")) if whole.is_dir() else [whole]:
            where = str(file.relative_to(ROOT / "amoeba_sglang"))
            found += [(name, f"{where}: {scope}") for scope, name in _calls_in(file)]
    return sorted(set(found))


def make_page() -> str:
    rows = [f"| `{name}` | {where} | {RUN[name]} |" for name, where in find_calls()]
    reads = [f"| {place} | {what} |" for place, what in UPSTREAM_READS.items()]
    return _INTRO + "\n".join(rows) + "\n" + _READS + "\n".join(reads) + "\n"


def _calls_in(file: Path) -> Iterator[tuple[str, str]]:
    def walk(node: ast.AST, scope: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{scope}.{child.name}".strip(".")
            if isinstance(child, ast.Call):
                yield from ((scope, name) for name in _names_of(child))
            yield from walk(child, inner)

    yield from walk(ast.parse(file.read_text()), "")


def _names_of(call: ast.Call) -> Iterator[str]:
    for argument in call.args:
        named = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        if named and _DRIVER.fullmatch(argument.value):
            yield argument.value
    callee = ast.unparse(call.func)
    if "(" not in callee and _CALLEES.search(callee):
        if callee.startswith("tl."):
            yield "tl."
        else:
            yield "turn_cycle[]" if callee.startswith("turn_cycle[") else callee


def main() -> None:
    PAGE.write_text(make_page())


if __name__ == "__main__":
    main()
