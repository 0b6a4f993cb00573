"""The contract of a backend: how the workers of a server compute, from its flags to its planes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from amoeba_sglang.config import HOST_PAGES, AmoebaConfig, GpuChoice, ModelHeads
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.host.cores import cpu_bindings, threads_per_worker
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.device.base import Device
from amoeba_sglang.planes.transport.base import Collectives, TransportGroup
from amoeba_sglang.planes.transport.collective import GlooGroup

if TYPE_CHECKING:
    # Imports SGLang, whose platform the launcher has yet to choose.
    from amoeba_sglang.adapters.worker.connections import Groups


class Backend(ABC):
    """`adapters.choice.choose_backend` takes one in every process of a server, and nobody else asks
    which it is."""

    gpu: GpuChoice | None = None
    """What workers compute on, unless it is the host; see adapters/cuda/kinds.py."""
    name: str
    """What the state calls its plane."""
    device: Device | None = None
    """What a worker computes on, if it computes."""
    start_method = "fork"
    """How the processes of the server start: "fork" shares what the launcher has imported, which
    takes each some 10 to 20 s of a core; "spawn" is SGLang's, and needed where a GPU is in use."""
    joint_graphs = False
    """Whether plain decode steps of instances can be recorded."""
    emulation: Emulation | None = None
    """What the configuration carries to the other processes."""
    pages = HOST_PAGES
    transports: tuple[str, ...] = ("peer", "collective")
    """Values of --amoeba-transport that it has."""
    dilation = 1.0
    """Real seconds of a second of the server's clock."""
    sentence = ""
    """What a person must know of it, for the ready line."""
    description: Mapping[str, Any] | None = None
    """What `GET /amoeba/state` says under EMULATED."""
    no_weights = ""
    """Why weights can be neither read nor updated by name."""
    classes: Mapping[str, str] = {}
    """SGLang's extension classes in the place of those that every server has."""
    unsupported: Mapping[str, tuple[str, ...]] = {}
    """Fields of ServerArgs that must keep their default here, by the feature that they ask for."""

    @abstractmethod
    def adjust(self, server_args: Any) -> None:
        """Change SGLang's ServerArgs before the model's configuration is read. ConfigError names a
        flag that this backend cannot follow."""

    def heads(self, model: ModelHeads) -> ModelHeads:
        """What limits the degrees, given what the model on disk says."""
        return model

    @abstractmethod
    def require_degrees(self, degrees: tuple[int, ...]) -> None:
        """ConfigError if there is a degree that it cannot have."""

    def environment(self, workers: int) -> dict[str, str]:
        """Variables of the children, where the user has not set them: so many workers share the
        cores."""
        cores = sorted(os.sched_getaffinity(0))
        return {
            "SGLANG_CPU_OMP_THREADS_BIND": cpu_bindings(workers, cores),
            "OMP_NUM_THREADS": str(threads_per_worker(workers, len(cores))),
        }

    @abstractmethod
    def kv_page(self, chunk: int | None) -> int:
        """Tokens of a KV page unless --page-size says it. `chunk`: --chunked-prefill-size."""

    def kv_layout(self, page: int) -> str:
        """How the attention takes a layer's K or V in pages of so many tokens: "own" and "hnd" as
        [slots, heads, page, D], which SGLang itself stores in the latter; "nhd" as its [slots,
        heads, D], slots of a token."""
        return "own"

    def own_tokens(self, given: int | None, degrees: tuple[int, ...]) -> int | None:
        """Tokens of a worker's pool; None measures the memory. `given`: --max-total-tokens."""
        return given

    def refusal(self, request: Any) -> str | None:
        """Why a generate request asks for what this backend does not have, or None."""
        return None

    @abstractmethod
    def adopt(self, model: Any, config: AmoebaConfig) -> None:
        """Take a model that was just loaded; collective over all workers of the world."""

    def helper(self) -> Executor:
        """The thread that copies while a worker computes."""
        return ThreadPoolExecutor(1, thread_name_prefix="amoeba-copies")

    @abstractmethod
    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        """Make the plane of an ElasticScheduler; collective over all workers of the world."""


class ModelBackend(Backend):
    """Workers that compute the model, on a device."""

    @property
    @abstractmethod
    def device(self) -> Device:
        """The process's; one for all that ask."""

    @abstractmethod
    def attention_at(self, runner: Any, degree: int) -> Any:
        """What attends in joint steps of this degree, over explicit slots per row. `runner`:
        SGLang's ModelRunner."""

    def collectives(
        self, coordinators: Mapping[int, Any], transports: Mapping[int, TransportGroup]
    ) -> Mapping[int, Collectives]:
        """By degree, what joint steps gather through; upstream's groups, of the same ranks, use it
        as well. Through the host, whose memory all workers reach."""
        for degree, transport in transports.items():
            if not isinstance(transport, GlooGroup):
                coordinators[degree].host_communicator = transport
        return transports

    def require_degrees(self, degrees: tuple[int, ...]) -> None:
        """Nothing: the heads of the model limit them."""

    def adopt(self, model: Any, config: AmoebaConfig) -> None:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.model.elastic_model import ElasticModel

        ElasticModel.adopt(model, config, self.device)

    def helper(self) -> Executor:
        return self.device.helper()

    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.model.plane import make_plane

        runner = scheduler.tp_worker.model_runner
        return make_plane(
            scheduler,
            rank,
            groups,
            device=self.device,
            collectives=self.collectives(runner.model.elastic.coordinators, groups.transports),
            attention_at=lambda degree: self.attention_at(runner, degree),
            joint_graphs=self.joint_graphs,
        )
