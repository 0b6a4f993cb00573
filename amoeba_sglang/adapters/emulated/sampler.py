"""Next tokens of an emulated worker: arbitrary, but the same whenever a request is repeated."""

from typing import Any

import torch
from sglang.srt.layers.sampler import Sampler

# Whole words or parts of them in the vocabularies of all served models, none of which ends a text.
_FIRST, _COUNT = 1000, 64


class EmulatedSampler(Sampler):
    """The token of a position depends on the position alone."""

    def forward(
        self,
        logits_output: Any,
        sampling_info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """positions: int64 [rows], of the last token of each. int64 [rows]."""
        return _FIRST + positions % _COUNT
