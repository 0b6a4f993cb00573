"""`--amoeba-reference-device`: the CUDA plane on the REFERENCE device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amoeba_sglang.adapters.backend import ModelBackend
from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """Of the table of attentions: what SGLang takes on a kind of GPU.

    types: --dtype; pages: tokens of a KV page; layout: see Backend.kv_layout.
    """

    attention: str
    types: tuple[str, ...]
    pages: tuple[int, ...]
    layout: str


_HALF = ("auto", "bfloat16", "half", "float16")
_TRTLLM = Row("trtllm_mha", _HALF, pages=(16, 32, 64, 128), layout="hnd")
ROWS = {
    "sm80": (
        Row("flashinfer", _HALF, pages=(1,), layout="nhd"),
        Row("triton", ("float32", "float"), pages=(1,), layout="nhd"),
    ),
    "sm90": (_TRTLLM,),
    "sm100": (_TRTLLM,),
}
"""By kind of GPU; those of one kind differ in types only."""


def find_row(kind: str, dtype: str) -> Row | None:
    """What computes in this --dtype on this kind of GPU, if anything does."""
    return next((row for row in ROWS[kind] if dtype in row.types), None)


class ReferenceBackend(ModelBackend):
    """What a server on GPUs of a kind does, call for call, with nothing of their speed."""

    name = "reference"
    classes = {"paged_allocator": "amoeba_sglang.adapters.reference.allocator.ReferenceAllocator"}

    def __init__(self, kind: str) -> None:
        self.kind, self._rows = kind, ROWS[kind]
        self.kv_layout = self._rows[0].layout
        self.sentence = (
            f"REFERENCE device {kind}: the calls of a GPU computed on the host, no figure of it "
            "says anything of a GPU"
        )

    @property
    def device(self) -> Any:
        # Imports the bindings of the driver.
        from amoeba_sglang.planes.reference.device import device_of_process

        return device_of_process()

    def adjust(self, server_args: Any) -> None:
        types = [name for row in self._rows for name in row.types]
        for flag, value, allowed in (
            ("--page-size", server_args.page_size, [None, *self._rows[0].pages]),
            ("--dtype", server_args.dtype, types),
        ):
            if value not in allowed:
                takes = ", ".join(str(one) for one in allowed if one is not None)
                raise ConfigError(
                    f"{flag} {value}: the attention of {self.kind} that is there takes {takes}"
                )

    def kv_page(self, chunk: int | None) -> int:
        return self._rows[0].pages[0]

    def attention_at(self, runner: Any, degree: int) -> Any:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.reference.attention import attention_at

        return attention_at(runner, degree)
