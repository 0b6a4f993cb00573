"""`--amoeba-reference-device`: the CUDA plane on the REFERENCE device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.contract import Plane

if TYPE_CHECKING:
    from amoeba_sglang.adapters.worker.connections import Groups

KINDS = ("sm90", "sm100")
"""GPUs whose attention is there."""
KV_PAGES = (16, 32, 64, 128)
"""Tokens of a KV page that `trtllm_mha` has kernels for."""
_TYPES = ("auto", "bfloat16", "half", "float16")


class ReferenceBackend(Backend):
    """What a server on GPUs of a kind does, call for call, with nothing of their speed."""

    name = "reference"
    # Tested with emulated steps only.
    unsupported = {"mixed prefill and decode batches": ("enable_mixed_chunk",)}
    heads_first = True

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise ConfigError(
                f"--amoeba-reference-device {kind}: its attention (FlashInfer and Triton) is not "
                f"there yet, use {' or '.join(KINDS)}"
            )
        self.kind = kind
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
        page = server_args.page_size
        if page not in (None, *KV_PAGES):
            raise ConfigError(
                f"--page-size {page}: trtllm_mha, the attention of {self.kind}, has kernels for "
                f"{', '.join(map(str, KV_PAGES))}"
            )
        if server_args.dtype not in _TYPES:
            raise ConfigError(
                f"--dtype {server_args.dtype}: trtllm_mha, the attention of "
                f"{self.kind}, computes in bfloat16 or float16"
            )

    def require_degrees(self, degrees: tuple[int, ...]) -> None:
        """Nothing: the heads of the model limit them."""

    def kv_page(self, chunk: int | None) -> int:
        return KV_PAGES[0]

    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.model.plane import make_plane

        attention = scheduler.tp_worker.model_runner.attn_backend
        return make_plane(scheduler, rank, groups, device=self.device, attention=attention)
