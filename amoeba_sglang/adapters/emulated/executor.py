"""Steps that take their time and compute nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord, work_of_records
from amoeba_sglang.planes.emulated.timeline import Timeline
from amoeba_sglang.planes.step_executor import Layer, LayerMove, StepExecutor


class EmulatedLayer:
    """Nothing of a layer but its degree."""

    degree = 1

    def switch(self, degree: int) -> None:
        self.degree = degree


class EmulatedExecutor(StepExecutor):
    """Launches every step on `timeline` for as long as the device model says.

    Between two degrees a step takes each degree's time for its share of the layers. `vocabulary`:
    columns of the logits, which say nothing: EmulatedSampler does not look at them.
    """

    lag = 1

    def __init__(
        self,
        emulation: Emulation,
        layers: Sequence[Layer],
        index: int,
        *,
        vocabulary: int,
        timeline: Timeline,
    ) -> None:
        super().__init__(layers, index)
        # Slots of peers' rows are of use to attention only.
        self.mirrors: list[RowMirror] = []
        self.timeline = timeline
        self._emulation, self._vocabulary = emulation, vocabulary

    def forward(self, own: ForwardBatch) -> LogitsProcessorOutput:
        if self._expected is None:
            assert self.degree == 1, "a worker of an instance must not run alone"
            self.timeline.launch(self._emulation.step_seconds(1, work_of(own)))
        else:
            self._run(*self._take_expected())
        return LogitsProcessorOutput(next_token_logits=self._logits(own))

    def follow(self) -> None:
        """As workers with rows do, wait for the step before this one, whose results they process
        while this one runs."""
        before = self.timeline.free_at
        self._run(*self._take_expected())
        self.timeline.wait(before)

    def synchronize(self) -> None:
        self.timeline.synchronize()

    def _run(self, records: list[StepRecord], move: LayerMove | None) -> None:
        for degree, first, end in self._segments(move):
            at = self.index % len(records) // degree * degree
            work = work_of_records(records[at : at + degree])
            seconds = self._emulation.step_seconds(degree, work)
            if move is not None:
                # Waiting for a move is not being late.
                self.timeline.rest()
            self.timeline.launch(seconds * (end - first) / len(self.layers))

    def _logits(self, own: ForwardBatch) -> torch.Tensor:
        """[rows, vocabulary], of one element unless a request changes its logits in place."""
        shape = own.batch_size, self._vocabulary
        if changes_logits(own.sampling_info):
            return torch.zeros(shape)
        return torch.zeros(1, 1).expand(shape)


def work_of(batch: ForwardBatch) -> StepWork:
    lengths = batch.seq_lens_cpu.tolist()
    new = batch.extend_seq_lens_cpu if batch.forward_mode.is_extend() else [1] * len(lengths)
    return StepWork.of_rows(zip(lengths, new, strict=True))


def changes_logits(sampling_info: Any) -> bool:
    """Whether upstream writes to the logits of this batch before it samples."""
    penalizers = sampling_info.penalizer_orchestrator
    return (
        sampling_info.logit_bias is not None
        or sampling_info.acc_additive_penalties is not None
        or sampling_info.acc_scaling_penalties is not None
        or sampling_info.has_custom_logit_processor
        or (penalizers is not None and penalizers.is_required)
    )
