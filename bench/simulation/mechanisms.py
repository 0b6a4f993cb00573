"""What steps, memory and changes of the degree cost under every way to change it.

Amoeba and static layouts are priced by the device model itself. The rivals are sketches after
their papers; `assumptions` says what each takes for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from amoeba_sglang.control.device import DeviceModel
from amoeba_sglang.control.policy.throughput import DegreeThroughput, StepCost, ThroughputTable

MAX_ROWS = 256
# Host memory to a device and back, a PCIe 5 x16 link at 0.8 of 64 GB/s.
_HOST_LINK = 51e9
_RESTART_S = 60.0
_PIPELINE_BUBBLES = 1.15
_RING_ATTENTION = 1.1


@dataclass(frozen=True)
class Price:
    """Seconds of a step: the dearer of reading weights and computing, plus attention.

    max(memory + memory_token * tokens, compute + compute_token * tokens)
        + context * context_tokens + attention * prefill_context
    """

    memory: float
    memory_token: float
    compute: float
    compute_token: float
    context: float
    attention: float

    @property
    def prefill(self) -> float:
        """Seconds that a prompt token adds to a large step."""
        return self.compute_token

    def seconds(
        self,
        rows: float,
        prefill_tokens: float = 0.0,
        context_tokens: float = 0.0,
        prefill_context: float = 0.0,
    ) -> float:
        """See StepCost.seconds."""
        tokens = rows + prefill_tokens
        return (
            max(
                self.memory + self.memory_token * tokens,
                self.compute + self.compute_token * tokens,
            )
            + self.context * context_tokens
            + self.attention * prefill_context
        )


@dataclass(frozen=True)
class Mechanism:
    """prices, tokens: by degree; a measured StepCost is a price, too. change_s: for how long a
    block does not compute when it goes from one degree to another with so many live tokens.
    loses_kv: prompts are computed again after a change."""

    name: str
    assumptions: str
    prices: Mapping[int, Price | StepCost]
    tokens: Mapping[int, int]
    change_s: Callable[[int, int, float], float]
    loses_kv: bool = False

    def table(self) -> ThroughputTable:
        """What a server that has measured itself would know."""
        degrees = {}
        for degree, price in self.prices.items():
            rows = 64 * degree
            degrees[degree] = DegreeThroughput(
                StepCost(
                    fixed=price.seconds(0),
                    row=(price.seconds(rows) - price.seconds(0)) / rows,
                    prefill=price.prefill,
                    context=price.context,
                    attention=price.attention,
                ),
                self.tokens[degree],
                MAX_ROWS * degree,
            )
        change_s = self.change_s(1, max(degrees), 0.0)
        return ThroughputTable(degrees, change_s, f"SIMULATED: {self.name}")


def mechanisms(device: DeviceModel, degrees: tuple[int, ...]) -> dict[str, Mechanism]:
    """By name, all that can be compared on a device."""
    prices = {degree: _probe(device, degree) for degree in degrees}
    elastic = device.elastic_tokens(degrees)

    def amoeba_s(before: int, after: int, live: float) -> float:
        received = device.received_bytes(degrees, before, after, live)
        return device.transformation_seconds(*received)

    def host_memory_s(before: int, after: int, live: float) -> float:
        kv = live * device.model.token_bytes / max(before, after)
        return (2 * kv + device.weight_bytes / after) / _HOST_LINK

    amoeba = Mechanism(
        "amoeba",
        "steps, memory and exposed transformation times of the device file; all requests of an "
        "instance share its KV, up to what it has at the base degree unless they are longer",
        prices,
        elastic,
        amoeba_s,
    )
    own = {degree: device.static_tokens(degree) for degree in degrees}
    return {
        "amoeba": amoeba,
        "static": replace(
            amoeba,
            name="static",
            tokens=own,
            assumptions="all weights are sharded, so a static instance has more KV than a merged "
            "one; every request goes to the instance that is expected to end it first",
        ),
        "restart": replace(
            amoeba,
            name="restart",
            tokens=own,
            change_s=lambda before, after, live: _RESTART_S,
            loses_kv=True,
            assumptions=f"a change takes {_RESTART_S:g} s, and running prompts are computed again",
        ),
        "seesaw": replace(
            amoeba,
            name="seesaw",
            tokens=own,
            change_s=host_memory_s,
            assumptions="KV goes through host memory and back and the new weight shards are read "
            f"from it, at {_HOST_LINK / 1e9:g} GB/s a device, with nothing hidden",
        ),
        "kunserve": replace(
            amoeba,
            name="kunserve",
            tokens=own,
            prices={degree: _pipeline(device, degree, prices[1]) for degree in degrees},
            assumptions="merged instances are pipelines: a round reads all weights one stage after "
            f"the other, bubbles cost {_PIPELINE_BUBBLES - 1:.0%}; the slowdown of the device file "
            "applies",
        ),
        "loongserve": replace(
            amoeba,
            name="loongserve",
            tokens={degree: degree * elastic[1] for degree in degrees},
            prices={degree: _sequence(device, degree, prices[1]) for degree in degrees},
            change_s=lambda before, after, live: 0.01,
            assumptions="merged instances are sequence parallel: every device reads all weights, a "
            f"merge frees none, ring attention costs {_RING_ATTENTION - 1:.0%}, a change 10 ms; "
            "the slowdown of the device file applies",
        ),
    }


def _probe(device: DeviceModel, degree: int) -> Price:
    """The device model as numbers: its steps are piecewise linear."""

    def step(tokens: float, pairs: float = 0.0, context: float = 0.0) -> float:
        return device.step_seconds(degree, tokens, pairs, 0, context)

    few, many = step(0), step(1e6)
    token = step(2e6) - many
    compute_token = token / 1e6
    return Price(
        memory=few,
        memory_token=step(1) - few,
        compute=many - compute_token * 1e6,
        compute_token=compute_token,
        context=(step(0, 0, 1e6) - few) / 1e6,
        attention=(step(0, 1e9) - few) / 1e9,
    )


def _pipeline(device: DeviceModel, degree: int, alone: Price) -> Price:
    if degree == 1:
        return alone
    read = device.weight_bytes / (device.memory_bandwidth * device.memory_efficiency)
    factor = _PIPELINE_BUBBLES * device.slowdown[degree]
    fixed = degree * device.fixed_seconds[degree] / 2
    return Price(
        memory=factor * read + fixed,
        memory_token=0.0,
        compute=fixed,
        compute_token=factor * alone.compute_token / degree,
        context=factor * alone.context / degree,
        attention=factor * alone.attention / degree,
    )


def _sequence(device: DeviceModel, degree: int, alone: Price) -> Price:
    if degree == 1:
        return alone
    read = device.weight_bytes / (device.memory_bandwidth * device.memory_efficiency)
    slow = device.slowdown[degree]
    fixed = 2 * device.model.layers * device.all_reduce_latency[degree]
    fixed = slow * (fixed + device.fixed_seconds[degree])
    return Price(
        memory=slow * read + fixed,
        memory_token=0.0,
        compute=fixed,
        compute_token=slow * alone.compute_token / degree,
        context=slow * _RING_ATTENTION * alone.context / degree,
        attention=slow * _RING_ATTENTION * alone.attention / degree,
    )
