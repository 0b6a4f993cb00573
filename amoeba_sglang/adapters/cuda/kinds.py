"""Which attention the kinds of GPUs compute with."""

from dataclasses import dataclass

from amoeba_sglang.config import GpuChoice
from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """Of the table: an attention backend of SGLang, and what it is done for here.

    types: --dtype; pages: tokens of a KV page, the usual one first.
    """

    attention: str
    types: tuple[str, ...]
    pages: tuple[int, ...]


_HALF = ("auto", "bfloat16", "half", "float16")
# Of 16 tokens, though SGLang's own has one for `fa3`: what a joint step tells attention, and how
# long the runs are that a change moves, go with it.
_FA3 = Row("fa3", _HALF, pages=(16, 32, 64, 128, 1))
_FLASHINFER = Row("flashinfer", _HALF, pages=(1,))
_TRITON = Row("triton", ("float32", "float"), pages=(1,))
_TRTLLM = Row("trtllm_mha", _HALF, pages=(16, 32, 64, 128))
ROWS = {
    "sm80": (_FLASHINFER, _TRITON),
    "sm90": (_FA3, _TRTLLM, _TRITON),
    "sm100": (_TRTLLM, _TRITON),
    "sm120": (_FLASHINFER, _TRTLLM, _TRITON),
}
"""By kind of GPU. The first that takes a type is what SGLang itself would choose."""
_BY_MAJOR = {8: "sm80", 9: "sm90", 10: "sm100", 12: "sm120"}


def kind_of(capability: tuple[int, int]) -> str:
    """The kind of a GPU of this compute capability; ConfigError if it is not served."""
    kind = _BY_MAJOR.get(capability[0])
    if kind is None:
        version = ".".join(map(str, capability))
        raise ConfigError(
            f"--device cuda: GPU 0 has compute capability {version}, and Amoeba attends on 8.x, "
            "9.0, 10.x and 12.x; choose other GPUs by CUDA_VISIBLE_DEVICES"
        )
    return kind


def row_of(gpu: GpuChoice) -> Row:
    return next(row for row in ROWS[gpu.kind] if row.attention == gpu.attention)


def choose_row(kind: str, dtype: str, attention: str | None = None) -> Row:
    """What computes in a --dtype on a kind of GPU, by this attention if one is named; ConfigError
    if nothing does."""
    there = [row for row in ROWS[kind] if attention in (None, row.attention)]
    if not there:
        names = ", ".join(row.attention for row in ROWS[kind])
        raise ConfigError(f"--attention-backend {attention}: joint steps on {kind} have {names}")
    row = next((row for row in there if dtype in row.types), None)
    if row is None:
        types = ", ".join(name for one in there for name in one.types)
        by = f"{attention} on {kind}" if attention else f"the attention of {kind} that is there"
        raise ConfigError(f"--dtype {dtype}: {by} takes {types}")
    return row
