"""Which attention a kind of GPU computes joint steps with."""

from dataclasses import dataclass

from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """Of the table: an attention backend of SGLang, and what it is done for here.

    types: --dtype; pages: tokens of a KV page; layout, graphs: see kv_layout and joint_graphs of
    Backend.
    """

    attention: str
    types: tuple[str, ...]
    pages: tuple[int, ...]
    layout: str
    graphs: bool = False


_HALF = ("auto", "bfloat16", "half", "float16")
_TRTLLM = Row("trtllm_mha", _HALF, pages=(16, 32, 64, 128), layout="hnd", graphs=True)
ROWS = {
    "sm80": (
        Row("flashinfer", _HALF, pages=(1,), layout="nhd", graphs=True),
        Row("triton", ("float32", "float"), pages=(1,), layout="nhd", graphs=True),
    ),
    "sm90": (_TRTLLM,),
    "sm100": (_TRTLLM,),
    "sm120": (_TRTLLM,),
}
"""By kind of GPU; those of one kind differ in types only."""
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


def find_row(kind: str, dtype: str) -> Row | None:
    """What computes in this --dtype on this kind of GPU, if anything does."""
    return next((row for row in ROWS[kind] if dtype in row.types), None)


def attention_of(kind: str, dtype: str) -> str:
    """SGLang's name of what computes in a --dtype on a kind of GPU; ConfigError if nothing does."""
    row = find_row(kind, dtype)
    if row is None:
        types = ", ".join(name for one in ROWS[kind] for name in one.types)
        raise ConfigError(f"--dtype {dtype}: the attention of {kind} that is there takes {types}")
    return row.attention
