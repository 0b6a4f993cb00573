"""Moves of KV units and weight pages that take their time and move nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import UnitMove


class EmulatedViews:
    """Of a pool without memory. `degree`: of the instance now; `sleep`: for emulated seconds."""

    def __init__(
        self, emulation: Emulation, degree: Callable[[], int], sleep: Callable[[float], None]
    ) -> None:
        self._device, self._degree, self._sleep = emulation.device, degree, sleep

    def view_layer(self, layer: int, degree: int) -> None:
        """Nothing: nobody looks."""

    def copy_slots(self, source: Sequence[int], target: Sequence[int], staging_bytes: int) -> None:
        """As an ElasticKVPool: every worker reads and writes its shard of each slot."""
        device = self._device
        share = len(source) * device.model.token_bytes / self._degree()
        self._sleep(2 * share / (device.memory_bandwidth * device.memory_efficiency))


class EmulatedUnitMover:
    """The KV of one worker, `index` in its block. `sleep`: for emulated seconds."""

    def __init__(
        self, emulation: Emulation, chain: DegreeChain, index: int, sleep: Callable[[float], None]
    ) -> None:
        self._device, self._index, self._sleep = emulation.device, index, sleep
        self._unit_bytes = self._device.model.kv_shape.unit_bytes(chain.finest)

    def move(
        self, layers: Sequence[int], moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        """As a KVMover: returns when the worker that receives most has all, with own bytes."""
        units = [0] * len(live)
        for move in moves:
            units[move.target] += len(live[move.home])
        each = self._unit_bytes * len(layers)
        self._sleep(self._device.copy_seconds(max(units) * each, 0))
        return units[self._index] * each


class EmulatedPages:
    """The pages of one worker; as a PageExchange, with the same capacity at every degree."""

    def __init__(
        self, emulation: Emulation, chain: DegreeChain, sleep: Callable[[float], None]
    ) -> None:
        self._device, self._sleep = emulation.device, sleep
        self._capacity = self._device.elastic_capacity(chain.degrees)
        self._layers = self._device.model.layers
        self._degrees = [1] * self._layers

    def grown_slots(self, degree: int) -> int:
        tokens = {at.degree: at.tokens for at in self._capacity.degrees}
        return tokens[degree] - degree * tokens[1]

    def refusal(self, before: int, after: int) -> str | None:
        return None

    def shrink(self) -> None:
        """Nothing: `move_layers` takes the time of all mappings."""

    def grow(self, degree: int) -> None:
        """Nothing: `move_layers` takes the time of all mappings."""

    def move_layers(self, layers: Iterable[int], degree: int) -> int:
        """Bring `layers`, all at one degree, to `degree`; bytes that a real worker would copy."""
        numbers = list(layers)
        before = self._degrees[numbers[0]]
        for number in numbers:
            self._degrees[number] = degree
        if before == degree:
            return 0
        share, copied = len(numbers) / self._layers, 0
        if degree < before:
            change = next(
                one for one in self._capacity.changes if (one.low, one.high) == (degree, before)
            )
            copied = round(change.refilled_bytes * share)
        copies = self._device.copy_seconds(0, copied)
        self._sleep(self._device.mapping_seconds * share + copies)
        return copied
