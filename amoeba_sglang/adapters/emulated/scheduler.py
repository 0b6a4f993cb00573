"""The scheduler of an emulated worker: the elastic one over a device that only takes time."""

from __future__ import annotations

from typing import Any

from amoeba_sglang.adapters.cpu.plane import DataPlane
from amoeba_sglang.adapters.emulated.executor import EmulatedExecutor, EmulatedLayer
from amoeba_sglang.adapters.emulated.sampler import EmulatedSampler
from amoeba_sglang.adapters.worker.connections import Groups
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import StepsMeasured, StepSums
from amoeba_sglang.planes.emulated.movers import EmulatedPages, EmulatedUnitMover, EmulatedViews
from amoeba_sglang.planes.emulated.timeline import Launched, Timeline


class EmulatedScheduler(ElasticScheduler):
    """One worker of an emulated group."""

    def make_data_plane(
        self, config: AmoebaConfig, chain: DegreeChain, rank: int, groups: Groups
    ) -> DataPlane:
        emulation, index = config.emulation, rank % config.group_size
        assert emulation is not None
        tokens = emulation.device.elastic_tokens(chain.degrees)
        size = self.token_to_kv_pool_allocator.num_pages
        assert size == tokens[1], (size, tokens)
        self.timeline, sleep = Timeline(self.clock), self.clock.sleep
        pages = EmulatedPages(emulation, chain, sleep)
        layers = [EmulatedLayer() for _ in range(emulation.device.model.layers)]
        vocabulary = self.model_config.vocab_size
        self.tp_worker.model_runner.sampler = EmulatedSampler()
        executor = EmulatedExecutor(emulation, layers, index, vocabulary, self.timeline)
        return DataPlane(
            executor=executor,
            views=EmulatedViews(emulation, lambda: executor.degree, sleep),
            movers={
                width: EmulatedUnitMover(emulation, chain, index % width, sleep)
                for width in chain.degrees[1:]
            },
            pages=pages,
            grown={degree: pages.grown_slots(degree) for degree in chain.degrees},
            # A helper that sleeps spends the time on the clock.
            copy_clock=self.clock.now,
            crowding=1.0,
        )

    def run_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Upstream's; its results are there when the device is done."""
        result = super().run_batch(batch, *args, **kwargs)
        result.copy_done = Launched(self.timeline)
        return result

    def on_idle(self) -> None:
        self.timeline.rest()
        super().on_idle()

    def steps_measured(self, sums: dict[int, StepSums]) -> StepsMeasured:
        return StepsMeasured(
            rank=self.runtime.rank,
            sums=sums,
            busy_seconds=self.timeline.busy_seconds,
            late_seconds=self.timeline.late_seconds,
        )

    def log_digest(self, when: str) -> None:
        """Nothing: there are no bits to compare."""
