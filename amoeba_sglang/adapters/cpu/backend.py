"""Workers that compute on the CPU."""

from typing import Any

from amoeba_sglang.adapters.backend import ModelBackend
from amoeba_sglang.planes.device.cpu import CpuDevice

KV_PAGE = 16


class CpuBackend(ModelBackend):
    """The model itself, on this host's cores."""

    name = "cpu"
    device = CpuDevice()
    _attention: Any = None

    def adjust(self, server_args: Any) -> None:
        """Nothing: SGLang's arguments are the user's."""

    def kv_page(self, chunk: int | None) -> int:
        """In the pool of a merged instance the slots of its workers take turns: with slots of one
        token attention would gather scattered runs, which costs more time than pages cost memory.
        """
        return 1 if chunk is not None and chunk > 0 and chunk % KV_PAGE else KV_PAGE

    def attention_at(self, runner: Any, degree: int) -> Any:
        """One for all degrees: that of SGLang, unless the user chose another for degree 1."""
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.cpu.attention import CpuAttention

        if self._attention is None:
            own = runner.attn_backend
            self._attention = own if isinstance(own, CpuAttention) else CpuAttention(runner)
        return self._attention
