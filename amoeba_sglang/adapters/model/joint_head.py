"""The output head of a joint step: vocabulary shards of all rows instead of own rows alone.

A product of few rows costs what reading the matrix costs. Every worker of an instance reading the
whole head for its own rows was the largest part by which a joint step was slower than static
tensor parallelism (a tenth of it for SmolLM2-135M at 16 rows).
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from amoeba_sglang.control.worker.step_record import StepRecord
from amoeba_sglang.planes.transport.base import Collectives


def rows_of_joint_head(records: Sequence[StepRecord], vocabulary: int) -> list[int] | None:
    """Rows that each worker of the instance brings to the joint head, in rank order.

    None if everybody computes its own logits: upstream then calls the head for more than the last
    token of each row, any number of times, or the shards would not be equal.
    """
    if vocabulary % len(records) or any(record.scores_prompts for record in records):
        return None
    return [len(record.rows) for record in records]


class GivenLogits:
    """Stands in for `lm_head` where the logits are there already."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.quant_method = self
        self._logits = logits

    def apply(
        self, layer: Any, hidden: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert bias is None and len(hidden) == len(self._logits), (len(hidden), bias)
        return self._logits


class JointHead:
    """Stands in for `lm_head` in upstream's logits processor for one step, which it calls once.

    `rows`: rows of each worker, in rank order. It has no `weight`, so that upstream asks its
    `quant_method`.
    """

    def __init__(
        self, processor: Any, weight: torch.Tensor, rows: list[int], ranks: Collectives
    ) -> None:
        self.quant_method = self
        self._processor, self._rows, self._ranks = processor, rows, ranks
        self._shard = SimpleNamespace(weight=weight.chunk(len(rows))[ranks.rank])

    def apply(
        self, layer: Any, hidden: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Normed hidden states of own rows [rows, H] -> their logits [rows, vocabulary]."""
        assert bias is None, "an output bias is not served"
        return self.of_union(self._ranks.all_gather_rows(hidden, self._rows))

    def of_union(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normed hidden states of all rows [union rows, H] -> the logits of own rows."""
        rank = self._ranks.rank
        logits = self._processor._compute_lm_head(hidden, self._shard)
        first = sum(self._rows[:rank])
        return self._ranks.all_gather(logits, dim=1)[first : first + self._rows[rank]]
