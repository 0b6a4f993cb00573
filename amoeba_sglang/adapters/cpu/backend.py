"""Workers that compute on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.device.cpu import CpuDevice

if TYPE_CHECKING:
    from amoeba_sglang.adapters.worker.connections import Groups

KV_PAGE = 16


class CpuBackend(Backend):
    """The model itself, on this host's cores."""

    name = "cpu"
    device = CpuDevice()
    # Tested with emulated steps only.
    unsupported = {"mixed prefill and decode batches": ("enable_mixed_chunk",)}

    def adjust(self, server_args: Any) -> None:
        """Nothing: SGLang's arguments are the user's."""

    def require_degrees(self, degrees: tuple[int, ...]) -> None:
        """Nothing: the heads of the model limit them."""

    def kv_page(self, chunk: int | None) -> int:
        """In the pool of a merged instance the slots of its workers take turns: with slots of one
        token attention would gather scattered runs, which costs more time than pages cost memory.
        """
        return 1 if chunk is not None and chunk > 0 and chunk % KV_PAGE else KV_PAGE

    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.cpu.attention import CpuAttention
        from amoeba_sglang.adapters.model.plane import make_plane

        attention = CpuAttention(scheduler.tp_worker.model_runner)
        return make_plane(
            scheduler, rank, groups, device=self.device, attention_at=lambda _: attention
        )
