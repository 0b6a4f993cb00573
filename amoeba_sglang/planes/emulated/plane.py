"""A plane whose steps and copies take their time and do nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.transform.moves import UnitMove
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.emulated.timeline import Launched, Timeline
from amoeba_sglang.planes.step_executor import StepExecutor


class EmulatedPlane(Plane):
    """The plane of the worker `index` of a group. `timeline`: of what `executor` launches."""

    def __init__(
        self,
        emulation: Emulation,
        chain: DegreeChain,
        index: int,
        executor: StepExecutor,
        timeline: Timeline,
    ) -> None:
        self._device, self._index, self._timeline = emulation.device, index, timeline
        self._capacity = self._device.elastic_capacity(chain.degrees)
        self._degrees = [1] * self._device.model.layers
        self._unit_bytes = self._device.model.kv_shape.unit_bytes(chain.finest)
        tokens = {at.degree: at.tokens for at in self._capacity.degrees}
        super().__init__(executor, {d: tokens[d] - d * tokens[1] for d in chain.degrees})

    def refusal(self, before: int, after: int) -> str | None:
        return None

    def shrink(self) -> None:
        """Nothing: `move_weights` takes the time of all mappings."""

    def grow(self, degree: int) -> None:
        """Nothing: `move_weights` takes the time of all mappings."""

    def move_weights(self, layers: range, degree: int) -> int:
        before, copied = self._degrees[layers[0]], 0
        if before == degree:
            return 0
        for number in layers:
            self._degrees[number] = degree
        share = len(layers) / len(self._degrees)
        if degree < before:
            change = next(
                one for one in self._capacity.changes if (one.low, one.high) == (degree, before)
            )
            copied = round(change.refilled_bytes * share)
        copies = self._device.copy_seconds(0, copied)
        self._timeline.sleep(self._device.mapping_seconds * share + copies)
        return copied

    def move_units(
        self, layers: range, moves: tuple[UnitMove, ...], live: Sequence[np.ndarray]
    ) -> int:
        """As on the device: returns when the worker that receives most has all, with own bytes."""
        units = [0] * len(live)
        for move in moves:
            units[move.target] += len(live[move.home])
        each = self._unit_bytes * len(layers)
        self._timeline.sleep(self._device.copy_seconds(max(units) * each, 0))
        return units[self._index % len(live)] * each

    def copy_slots(self, source: np.ndarray, target: np.ndarray) -> None:
        """As on the device: every worker reads and writes its shard of each slot."""
        device = self._device
        share = len(source) * device.model.token_bytes / self.executor.degree
        self._timeline.sleep(2 * share / (device.memory_bandwidth * device.memory_efficiency))

    def copy_seconds(self) -> float:
        """The time on the clock, which a helper that sleeps spends."""
        return self._timeline.now()

    def launched(self) -> Launched:
        return Launched(self._timeline)

    def rest(self) -> None:
        self._timeline.rest()

    def device_figures(self) -> Mapping[str, float]:
        """Seconds; late are those without work although the worker was not at rest."""
        line = self._timeline
        return {"busy_seconds": line.busy_seconds, "late_seconds": line.late_seconds}
