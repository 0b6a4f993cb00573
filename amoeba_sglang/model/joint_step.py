"""What happens in one joint step: own rows in, union through the layers, own logits out.

The pipeline-parallel seam of upstream's models runs a range of layers without touching a model
file: `start_layer`, `end_layer`, the first/last-rank flags and PPProxyTensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.distributed.parallel_state import patch_tensor_parallel_group
from sglang.srt.layers.layer_boundary.residual import batch as residual_batch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

from amoeba_sglang.layout.slots import DegreeChain
from amoeba_sglang.model.layer_shards import LayerShards
from amoeba_sglang.model.mirror import RowMirror
from amoeba_sglang.model.step_record import StepRecord
from amoeba_sglang.model.union_batch import UnionBatch, build_union
from amoeba_sglang.transport import TransportGroup


class JointExecutor:
    """Runs the joint steps of one worker.

    `layers`: the model's layers with their current degree; ranges of equal degree are the segments
    of a step, the lower degree first. `size`: slots of a worker's own pool; `grown`: by degree the
    grown slots of an instance. `attention`: backend that takes explicit slots per row.
    """

    def __init__(
        self,
        model: Any,
        layers: list[LayerShards],
        chain: DegreeChain,
        size: int,
        grown: Mapping[int, int],
        groups: dict[int, Any],
        transports: dict[int, TransportGroup],
        attention: Any,
    ) -> None:
        self.model, self.stack = model, model.model
        self.layers, self.chain, self.size, self.grown = layers, chain, size, grown
        self.groups, self.transports, self.attention = groups, transports, attention
        self.mirrors = [RowMirror() for _ in range(chain.finest)]
        self._records: list[StepRecord] | None = None

    @property
    def degree(self) -> int:
        """The higher degree while layers are at two."""
        return self.layers[-1].degree

    def segments(self) -> list[tuple[int, int, int]]:
        """(degree, first layer, end layer) of every range of layers at one degree."""
        degrees = [layer.degree for layer in self.layers]
        assert degrees == sorted(degrees), f"layers below the boundary must be lower: {degrees}"
        found = []
        for degree in sorted(set(degrees)):
            first = degrees.index(degree)
            found.append((degree, first, first + degrees.count(degree)))
        return found

    def expect(self, records: list[StepRecord]) -> None:
        """Hand over the records of the step that the next `forward` or `follow` runs, one for every
        worker that is in step, by rank."""
        assert self._records is None, "the previous joint step never ran"
        self._records = records

    def forget(self) -> None:
        """Drop what is known of the peers' rows, when the instance changes."""
        for mirror in self.mirrors:
            mirror.clear()

    def forward(self, own: ForwardBatch) -> Any | None:
        """`ModelRunner.joint_forward`: logits of this worker's rows, None at degree 1."""
        if self._records is None:
            assert self.degree == 1, "a worker of an instance must not run alone"
            return None
        hidden = self._run(own, self.stack.embed_tokens(own.input_ids))
        residual_width = hidden.shape[1] // 2
        last = PPProxyTensors(
            {
                "hidden_states": hidden[:, :residual_width].contiguous(),
                "residual": hidden[:, residual_width:].contiguous(),
            }
        )
        own.residual_stream = None
        normed = self.stack.layers[-1].ffn_boundary.from_pp(last, own)
        normed = residual_batch.final_norm(normed, own, self.stack.norm)
        return self.model.logits_processor(own.input_ids, normed, self.model.lm_head, own)

    @torch.no_grad()
    def follow(self) -> None:
        """Take part in a joint step without rows of one's own."""
        weight = self.stack.embed_tokens.weight
        self._run(None, torch.zeros(0, weight.shape[1], dtype=weight.dtype))

    def _run(self, own: ForwardBatch | None, x: torch.Tensor) -> torch.Tensor:
        """Own embeddings [tokens, H] -> hidden states beside residual [tokens, 2 H]."""
        records, self._records = self._records, None
        assert records is not None
        for number, (degree, first, end) in enumerate(self.segments()):
            index = self.layers[0].index % degree
            if degree == 1:
                union = None if own is None else UnionBatch(own, [], [len(x)])
            else:
                # While layers are at two degrees, those at the lower join only some of the workers.
                at = self.layers[0].index % len(records) // degree * degree
                union = build_union(
                    records[at : at + degree],
                    self.mirrors[at : at + degree],
                    self.chain,
                    degree,
                    self.size,
                    self.grown[degree],
                )
            if union is None:
                x = x.new_zeros(0, 2 * self.stack.embed_tokens.weight.shape[1])
                continue
            assert union.tokens[index] == len(x), f"{union.tokens=} {index=} {len(x)=}"
            if degree > 1:
                x = self.transports[degree].all_gather_rows(x, union.tokens)
            x = self._run_layers(union, degree, first, end, x, starts=number == 0)
            start = sum(union.tokens[:index])
            x = x[start : start + union.tokens[index]]
        return x

    def _run_layers(
        self, union: UnionBatch, degree: int, first: int, end: int, x: torch.Tensor, starts: bool
    ) -> torch.Tensor:
        batch = union.batch
        batch.residual_stream = None
        group = (
            patch_tensor_parallel_group(self.groups[degree], owns_attention=True)
            if degree > 1
            else nullcontext()
        )
        context = ForwardContext(attn_backend=self.attention)
        with self._stage(first, end, starts), forward_context(context), group:
            if degree > 1:
                self.attention.init_ragged_metadata(batch, union.slots)
            else:
                self.attention.init_forward_metadata(batch)
            if starts:
                out = self.stack(batch.input_ids, batch.positions, batch, input_embeds=x)
            else:
                hidden, residual = (half.contiguous() for half in x.chunk(2, dim=1))
                proxy = PPProxyTensors({"hidden_states": hidden, "residual": residual})
                out = self.stack(batch.input_ids, batch.positions, batch, pp_proxy_tensors=proxy)
        return torch.cat([out["hidden_states"], out["residual"]], dim=1)

    @contextmanager
    def _stage(self, first: int, end: int, starts: bool) -> Iterator[None]:
        stack = self.stack
        saved = stack.pp_group, stack.start_layer, stack.end_layer
        stack.pp_group = SimpleNamespace(is_first_rank=starts, is_last_rank=False)
        stack.start_layer, stack.end_layer = first, end
        try:
            yield
        finally:
            stack.pp_group, stack.start_layer, stack.end_layer = saved
