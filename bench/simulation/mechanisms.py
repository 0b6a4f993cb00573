"""What steps, memory and changes of the degree cost under every way to change it.

Amoeba and static layouts are priced by the device model itself. The rivals are sketches after
their papers; `assumptions` says what each takes for granted.
"""

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

    def amoeba_s(before: int, after: int, live: float) -> float:
        received = received_bytes(device, degrees, before, after, live_tokens=live)
        return transformation_seconds(device, *received)

    amoeba = Mechanism(
        "amoeba",
        "steps, memory and exposed transformation times of the device file; all requests of an "
        "instance share its KV, up to what it has at the base degree unless they are longer",
        prices,
        device.elastic_tokens(degrees),
        amoeba_s,
    )
    return {"amoeba": amoeba, **_rivals(device, degrees, amoeba)}


def _rivals(
    device: DeviceModel, degrees: tuple[int, ...], amoeba: Mechanism
) -> dict[str, Mechanism]:
    own = {degree: static_tokens(device, degree) for degree in degrees}
    prices = amoeba.prices

    def host_memory_s(before: int, after: int, live: float) -> float:
        kv = live * device.model.token_bytes / max(before, after)
        return (2 * kv + device.weight_bytes / after) / _HOST_LINK

    return {
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
            tokens={degree: degree * amoeba.tokens[1] for degree in degrees},
            prices={degree: _sequence(device, degree, prices[1]) for degree in degrees},
            change_s=lambda before, after, live: 0.01,
            assumptions="merged instances are sequence parallel: every device reads all weights, a "
            f"merge frees none, ring attention costs {_RING_ATTENTION - 1:.0%}, a change 10 ms; "
            "the slowdown of the device file applies",
        ),
    }


def received_bytes(
    device: DeviceModel, degrees: tuple[int, ...], before: int, after: int, *, live_tokens: float
) -> tuple[float, float]:
    """(KV, weights) that each worker of a block receives on average when the block goes from
    instances of `before` to instances of `after`, with `live_tokens` in all of them."""
    low, high = sorted((before, after))
    changes = device.elastic_capacity(degrees).changes
    change = next(c for c in changes if (c.low, c.high) == (low, high))
    weights = change.refilled_bytes if after < before else 0
    return change.kv_bytes_per_token * live_tokens / high, weights


def transformation_seconds(device: DeviceModel, kv_bytes: float, weight_bytes: float) -> float:
    """For how long a whole transformation keeps a block from computing. `kv_bytes`,
    `weight_bytes`: that each of its workers receives, see `received_bytes`."""
    hidden = device.copy_seconds(kv_bytes, weight_bytes) + device.mapping_seconds
    return device.barrier_seconds + device.exposed_share * hidden


def static_tokens(device: DeviceModel, degree: int) -> int:
    """Tokens of an instance that has always been at `degree`, with all weights in shards."""
    left = degree * device.usable_bytes - device.weight_bytes
    return max(0, left // device.model.token_bytes)


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
