"""How long a model's steps and transformations take on a device, and how many tokens fit.

A roofline with fixed costs, after published figures; nothing of it was measured by us. It serves
emulated servers (`--amoeba-emulate`) and the simulator, so that both mean the same device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from amoeba_sglang.control.layout.capacity import PlannedCapacity, plan_capacity
from amoeba_sglang.control.layout.decoder import Decoder
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError


@dataclass(frozen=True)
class DeviceModel:
    """One device with one model on it. Times in seconds, sizes in bytes, rates per second.

    name: of the file. device, cost_model: in words. usable_share: of the memory, for weights and
    KV. `*_efficiency`: reached share of a peak rate. link_bandwidth: of an all-reduce ring between
    the devices. By degree: all_reduce_latency, fixed_seconds of a step, and slowdown, the factor on
    a step for losses that the roofline does not know. barrier_seconds, mapping_seconds: of a whole
    transformation; exposed_share: of its copies and mappings, that which no computation hides.
    """

    name: str
    device: str
    cost_model: str
    model: Decoder
    memory_bytes: float
    usable_share: float
    page_bytes: int
    memory_bandwidth: float
    memory_efficiency: float
    flops: float
    gemm_efficiency: float
    attention_efficiency: float
    link_bandwidth: float
    copy_efficiency: float
    all_reduce_latency: Mapping[int, float]
    fixed_seconds: Mapping[int, float]
    slowdown: Mapping[int, float]
    barrier_seconds: float
    mapping_seconds: float
    exposed_share: float

    @property
    def weight_bytes(self) -> int:
        """All weights; embeddings count in full, though a step reads few of their rows."""
        return self.model.replicated_bytes + self.model.mlp_bytes

    @property
    def usable_bytes(self) -> int:
        return round(self.memory_bytes * self.usable_share)

    # Steps

    def step_seconds(
        self,
        degree: int,
        prefill_tokens: float,
        prefill_context: float,
        decode_rows: float,
        context_tokens: float,
    ) -> float:
        """One step of an instance of `degree`, all layers, everything counted over its workers.

        prefill_tokens: new tokens of prompts. prefill_context: the sum over them of the tokens that
        each attends to; n tokens behind a prefix of p add n * (p + n / 2). decode_rows: requests
        that get a token each; context_tokens: the sum of their lengths.
        """
        self.require_degree(degree)
        model, tokens = self.model, prefill_tokens + decode_rows
        parameters = self.weight_bytes / model.dtype_bytes
        bandwidth = degree * self.memory_bandwidth * self.memory_efficiency
        linear = max(
            self.weight_bytes / bandwidth,
            2 * parameters * tokens / (degree * self.flops * self.gemm_efficiency),
        )
        width = model.layers * model.heads * model.head_dim
        attention = context_tokens * model.token_bytes / bandwidth + (
            4 * width * prefill_context / (degree * self.flops * self.attention_efficiency)
        )
        seconds = linear + attention + self._reduce_seconds(degree, tokens)
        return (seconds + self.fixed_seconds[degree]) * self.slowdown[degree]

    def _reduce_seconds(self, degree: int, tokens: float) -> float:
        """Two all-reduces of every token's hidden state in each layer."""
        if degree == 1:
            return 0.0
        size = tokens * self.model.hidden * self.model.dtype_bytes
        ring = 2 * (degree - 1) / degree * size / self.link_bandwidth
        return 2 * self.model.layers * (self.all_reduce_latency[degree] + ring)

    # Transformations

    def copy_seconds(self, kv_bytes: float, weight_bytes: float) -> float:
        """What a worker takes to read `kv_bytes` of units from its peers, by way of a staging
        buffer (without one it takes less), and `weight_bytes` of shards, if it does nothing else.
        """
        link = self.copy_efficiency * self.link_bandwidth
        staging = 2 * kv_bytes / (self.memory_bandwidth * self.memory_efficiency)
        return (kv_bytes + weight_bytes) / link + staging

    # Capacity

    def elastic_capacity(self, degrees: tuple[int, ...]) -> PlannedCapacity:
        """What a group of `degrees` holds when merges free pages of MLP weights for KV."""
        return _plan(self.model, self.page_bytes, self.usable_bytes, degrees)

    def elastic_tokens(self, degrees: tuple[int, ...]) -> dict[int, int]:
        """By degree, tokens that an instance of a group of `degrees` holds."""
        capacity = self.elastic_capacity(degrees)
        if not capacity.fits:
            raise ConfigError(
                f"device {self.name}: {self.model.name} does not fit at degree 1, where every "
                "worker starts: take a smaller model, or a device with more memory"
            )
        return {at.degree: at.tokens for at in capacity.degrees}

    def require_degree(self, degree: int) -> None:
        """ConfigError if the file has no constants for `degree`."""
        if degree not in self.slowdown:
            known = ",".join(map(str, self.slowdown))
            raise ConfigError(
                f"device {self.name}: degree {degree} is not one of its {known}; add it, or take "
                "others"
            )


@cache
def _plan(
    model: Decoder, page_bytes: int, usable_bytes: int, degrees: tuple[int, ...]
) -> PlannedCapacity:
    pages = WeightPages(DegreeChain(degrees), page_bytes, model.mlp_layers)
    return plan_capacity(model, pages, usable_bytes)
