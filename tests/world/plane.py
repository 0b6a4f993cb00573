"""The data plane of a world: it takes virtual time, and compares with the shadow what a real one
would compute with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from amoeba_sglang.adapters.emulated.executor import EmulatedExecutor, EmulatedLayer
from amoeba_sglang.adapters.emulated.sampler import EmulatedSampler
from amoeba_sglang.adapters.model.union_batch import build_union
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.emulated.timeline import Launched, Timeline
from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.step_executor import LayerMove
from tests.world.stage import STAGE
from tests.world.violation import Violation

# Virtual seconds of copying a slot, of moving and of mapping a layer.
_SLOT_SECONDS, _LAYER_SECONDS, _MAP_SECONDS = 1e-6, 1e-4, 2e-4


class WorldPool(MHATokenToKVPool):
    """No memory behind any slot."""

    def _create_buffers_normal(self) -> None:
        shape, _ = self._kv_buffer_shapes()
        row = torch.zeros(1, *shape[1:], dtype=self.store_dtype)
        self.k_buffer = [row.expand(shape)] * self.layer_num
        self.v_buffer = [row.expand(shape)] * self.layer_num


class StepTime:
    """In the place of an Emulation: what a step costs is the play's to say."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def step_seconds(self, degree: int, work: Any) -> float:
        return STAGE.play.step_seconds(self._rank, work) if work else 0.0


class WorldLayer(EmulatedLayer):
    """Knows when its weights are touched."""

    def restore_upstream_order(self) -> None:
        if self.degree > 1:
            raise Violation("weights are touched in an instance", f"degree {self.degree}")

    def adopt_weights(self) -> None:
        """Nothing: there are none."""


class WorldWeights:
    """In the place of what updates and reads weights: it takes time."""

    def update_weights_from_disk(self, *args: Any, **kwargs: Any) -> tuple[bool, str]:
        STAGE.play.sleep(STAGE.play.operator.weights_s)
        return True, ""

    def get_weights_by_name(self, name: str, size: int) -> list[float]:
        STAGE.play.sleep(STAGE.play.operator.weights_s)
        return [0.0]


class WorldSampler(EmulatedSampler):
    """Every token is as probable as it can be."""

    def forward(self, logits_output: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = super().forward(logits_output, *args, **kwargs)
        logits_output.next_token_logprobs = torch.zeros(len(tokens))
        return tokens


class WorldExecutor(EmulatedExecutor):
    """Also keeps mirrors of the peers' rows, and looks whether they are what the owners have."""

    def __init__(
        self, rank: int, layers: list[EmulatedLayer], chain: DegreeChain, pool: Any, **parts: Any
    ) -> None:
        super().__init__(StepTime(rank), layers, rank % chain.finest, **parts)
        self.rank, self.mirrors = rank, [RowMirror() for _ in range(chain.finest)]
        self._chain, self._size, self._page = chain, pool.num_pages, pool.page_size

    def forward(self, own: Any) -> Any:
        output = super().forward(own)
        if own.return_logprob and own.forward_mode.is_extend():
            # As many as any of the rows can want.
            output.input_token_logprobs = torch.zeros(int(own.extend_num_tokens))
        return output

    def hear(self, records: list[StepRecord]) -> None:
        super().hear(records)
        if self.index % self.degree == 0:
            at = self.index % len(records)
            STAGE.play.checks.hear_loans(self.rank, records[at : at + self.degree])

    def expect(self, records: list[StepRecord], move: LayerMove | None) -> None:
        super().expect(records, move)
        STAGE.play.checks.remember_rows(self.rank, records[self.index % len(records)])

    def _run(self, records: list[StepRecord], move: LayerMove | None) -> None:
        super()._run(records, move)
        for degree in sorted({layer.degree for layer in self.layers} - {1}):
            at = self.index % len(records) // degree * degree
            members, mirrors = records[at : at + degree], self.mirrors[at : at + degree]
            union = build_union(
                members,
                mirrors,
                self._chain,
                degree,
                size=self._size,
                page=self._page,
                device="cpu",
            )
            if union is not None:
                first = self.rank // degree * degree
                STAGE.play.checks.compare_union(first, degree, members, union)


class Launching(Launched):
    """Also of a batch that is sampled only after the one before it."""

    def record(self) -> None:
        """Nothing: sampling takes no time."""


class WorldPlane(Plane):
    """The plane of one worker, whose KV is the shadow's; what is not live when its layers move is
    lost."""

    def __init__(self, scheduler: Any, rank: int, executor: WorldExecutor) -> None:
        self._scheduler, self._rank = scheduler, rank
        chain = DegreeChain(scheduler.server_args._amoeba.degrees)
        self._own_slots = scheduler.token_to_kv_pool_allocator.num_pages
        super().__init__(executor, {d: scheduler.setting.grown_slots(d) for d in chain.degrees})

    def refusal(self, before: int, after: int) -> str | None:
        return STAGE.play.faults.page_refusal(self._rank)

    def shrink(self) -> None:
        """Nothing: `move_weights` takes the time of all mappings."""

    def grow(self, degree: int) -> None:
        if STAGE.play.faults.map_fails(self._rank, "grow"):
            raise MemoryFault("no pages behind the KV")

    def move_weights(self, layers: range, degree: int) -> int:
        if STAGE.play.faults.map_fails(self._rank, "layers"):
            raise MemoryFault("no pages for a layer")
        STAGE.play.sleep(_MAP_SECONDS * len(layers))
        return 0

    def move_units(self, layers: range, moves: Any, live: Sequence[np.ndarray]) -> int:
        index = self._rank % len(live)
        STAGE.play.sleep(len(layers) * (_LAYER_SECONDS + _SLOT_SECONDS * max(map(len, live))))
        if any(move.home == index for move in moves):
            STAGE.play.shadow.clobber(self._rank, live[index], self._own_slots)
        return 64 * len(layers)

    def copy_slots(self, source: np.ndarray, target: np.ndarray) -> None:
        runtime = self._scheduler.runtime
        if runtime.index % runtime.degree == 0:
            moves = runtime.slots.moves
            taken, put = moves.source, moves.target
            STAGE.play.shadow.copy(runtime.rank, taken, put)
            STAGE.play.counts["slots copied"] += len(taken)
        STAGE.play.sleep(_SLOT_SECONDS * len(source))

    def copy_seconds(self) -> float:
        return self._scheduler.clock.now()

    def launched(self) -> Launching:
        return Launching(self._scheduler.timeline)

    def rest(self) -> None:
        self._scheduler.timeline.rest()


def make_world_plane(scheduler: Any, rank: int) -> WorldPlane:
    """For one worker of a world."""
    config, allocator = scheduler.server_args._amoeba, scheduler.token_to_kv_pool_allocator
    scheduler.timeline = Timeline(scheduler.clock)
    scheduler.tp_worker.model_runner.sampler = WorldSampler()
    executor = WorldExecutor(
        rank,
        [WorldLayer() for _ in range(config.layers)],
        DegreeChain(config.degrees),
        allocator,
        vocabulary=scheduler.model_config.vocab_size,
        timeline=scheduler.timeline,
    )
    return WorldPlane(scheduler, rank, executor)
