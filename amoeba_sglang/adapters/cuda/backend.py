"""Workers that compute on GPUs."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amoeba_sglang.adapters.backend import ModelBackend
from amoeba_sglang.adapters.cuda.collectives import GroupCollectives, StagedCollectives
from amoeba_sglang.adapters.cuda.flags import require_reach, share_gpu
from amoeba_sglang.adapters.cuda.kinds import row_of
from amoeba_sglang.config import MAX_GPU_PAGE_SIZE_KIB, GpuChoice, ModelHeads, PageSizes
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.memory.driver import load_bindings
from amoeba_sglang.planes.memory.peers import read_reach
from amoeba_sglang.planes.transport.base import Collectives, TransportGroup

if TYPE_CHECKING:
    from amoeba_sglang.planes.device.cuda import CudaDevice


_LATE_SIZING = "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"


class GpuBackend(ModelBackend):
    """What is done for GPUs, whether they are there or stood for."""

    # Memory that GPUs reach; nothing else moves KV between them yet.
    transports = ("peer",)
    joint_graphs = True
    # A process that has asked a driver for its GPUs must not fork.
    start_method = "spawn"
    unsupported = {
        # SGLang makes them ready for one number of ranks at start.
        "collectives of one degree": (
            "flashinfer_allreduce_fusion_backend", "enable_flashinfer_allreduce_fusion",
            "enable_mscclpp", "enable_torch_symm_mem", "enable_symm_mem", "enable_layernorm_sp",
        ),
    }  # fmt: skip

    def __init__(self, gpu: GpuChoice) -> None:
        self.gpu, self._row = gpu, row_of(gpu)

    def adjust(self, server_args: Any) -> None:
        page, dtype, row = server_args.page_size, server_args.dtype, self._row
        if page is not None and page not in row.pages:
            raise ConfigError(
                f"--page-size {page}: {row.attention} on {self.gpu.kind} takes "
                f"{', '.join(map(str, row.pages))}"
            )
        if dtype not in row.types:
            # A file of --config can say what the launcher's own look at the flags did not see.
            raise ConfigError(
                f"--dtype {dtype}: {row.attention} on {self.gpu.kind} takes "
                f"{', '.join(row.types)}; say it on the command line, where it chooses another"
            )

    def kv_page(self, chunk: int | None) -> int:
        return self._row.pages[0]

    def heads(self, model: ModelHeads) -> ModelHeads:
        if model.experts:
            raise ConfigError(
                "--device cuda: mixtures of experts are served on the CPU alone so far; add "
                "--device cpu, or take a dense model"
            )
        return model

    def kv_layout(self, page: int) -> str:
        return "nhd" if page == 1 else "hnd"

    def attention_at(self, runner: Any, degree: int) -> Any:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.cuda.flashinfer_attention import FlashInferAttention

        # One plans for a number of heads, and the others take it from the tensors.
        if degree > 1 and isinstance(runner.attn_backend, FlashInferAttention):
            return FlashInferAttention(runner, degree)
        return runner.attn_backend


class CudaBackend(GpuBackend):
    """The GPUs that SGLang gives the workers, one each. Not yet run on a GPU."""

    name = "cuda"
    pages = PageSizes(least=2 << 10, usual=2 << 10, most=MAX_GPU_PAGE_SIZE_KIB)
    sentence = "CUDA plane, not yet run on a GPU"

    def __init__(self, gpu: GpuChoice) -> None:
        super().__init__(gpu)
        # What waits for the host cannot be recorded.
        self.joint_graphs = not gpu.shared

    @property
    def device(self) -> CudaDevice:
        return _device_of_process()

    def collectives(
        self, coordinators: Mapping[int, Any], transports: Mapping[int, TransportGroup]
    ) -> Mapping[int, Collectives]:
        if not self.gpu.shared:
            return {degree: GroupCollectives(group) for degree, group in coordinators.items()}
        staged = {degree: StagedCollectives(group) for degree, group in transports.items()}
        for degree, group in coordinators.items():
            # The one place where upstream's group asks a communicator before its own for a GPU.
            group.hpu_communicator = staged[degree]
        return staged

    def adjust(self, server_args: Any) -> None:
        super().adjust(server_args)
        if os.environ.get(_LATE_SIZING, "").lower() in ("1", "true"):
            raise ConfigError(
                f"{_LATE_SIZING}: SGLang's own growing pool is not one that instances merge with; "
                "unset it"
            )
        if self.gpu.shared:
            share_gpu(server_args)
        else:
            require_reach(server_args, read_reach(load_bindings()))

    def environment(self, workers: int) -> dict[str, str]:
        """Nothing: SGLang's settings for GPUs are right."""
        return {}


@functools.cache
def _device_of_process() -> CudaDevice:
    """Of the GPU that SGLang has chosen for this worker."""
    import torch

    from amoeba_sglang.planes.device.cuda import CudaDevice

    return CudaDevice(torch.cuda.current_device())
