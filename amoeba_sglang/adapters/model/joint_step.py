"""What happens in one joint step: own rows in, union through layers and head, own logits out.

The pipeline-parallel seam of upstream's models runs a range of layers without touching a model
file: `start_layer`, `end_layer`, the first/last-rank flags and PPProxyTensors.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.distributed.parallel_state import patch_tensor_parallel_group
from sglang.srt.layers.layer_boundary.residual import batch as residual_batch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.runtime_context import get_parallel

from amoeba_sglang.adapters.model.joint_graphs import JointGraphs, Recorded
from amoeba_sglang.adapters.model.joint_head import GivenLogits, JointHead, rows_of_joint_head
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.adapters.model.union_batch import UnionBatch, build_union
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.control.worker.step_record import StepRecord
from amoeba_sglang.planes.device.base import Device
from amoeba_sglang.planes.step_executor import LayerMove, StepExecutor
from amoeba_sglang.planes.transport.base import Collectives


class JointExecutor(StepExecutor):
    """Runs the joint steps of one worker, on the device of its model.

    `size`: slots of a worker's own pool; `page`: tokens of a slot. By degree: `groups`, upstream's,
    and `collectives`, over the same ranks; `attentions`, backends that take explicit slots per row.
    """

    def __init__(
        self,
        model: Any,
        layers: list[LayerShards],
        chain: DegreeChain,
        *,
        size: int,
        page: int,
        groups: dict[int, Any],
        collectives: Mapping[int, Collectives],
        attentions: Mapping[int, Any],
        device: Device,
    ) -> None:
        super().__init__(layers, layers[0].index)
        self.model, self.stack = model, model.model
        self.chain, self.size, self.page = chain, size, page
        self.groups, self.collectives, self.attentions = groups, collectives, attentions
        self._device = device
        self.graphs: JointGraphs | None = None
        self.mirrors = [RowMirror() for _ in range(chain.finest)]

    def forward(self, own: ForwardBatch) -> Any | None:
        if self._expected is None:
            assert self.degree == 1, "a worker of an instance must not run alone"
            return None
        records, move = self._take_expected()
        recorded = self._find_graph(records, move)
        if recorded is not None:
            logits = self._replay(recorded, own, records)
            return self.model.logits_processor(own.input_ids, logits, GivenLogits(logits), own)
        x = self._run(own, records, move, own.input_ids.to(torch.int64))
        head = self._joint_head(records) or self.model.lm_head
        return self.model.logits_processor(own.input_ids, self._final_norm(x, own), head, own)

    @torch.no_grad()
    def follow(self) -> None:
        records, move = self._take_expected()
        recorded = self._find_graph(records, move)
        if recorded is not None:
            self._replay(recorded, None, records)
            return
        weight = self.stack.embed_tokens.weight
        self._run(None, records, move, weight.new_zeros(0, dtype=torch.int64))
        head = self._joint_head(records)
        if head is not None:
            head.apply(None, weight.new_zeros(0, weight.shape[1]))

    @torch.no_grad()
    def record_graphs(
        self, graphs: JointGraphs, degree: int, width: int, meet: Callable[[], None]
    ) -> None:
        """Record plain decode steps at a degree, at which all layers and the pool are; collective.
        See JointGraphs.record."""
        if self.model.lm_head.weight.shape[0] % degree:
            # Shards of the head would not be equal.
            return
        nobody = [StepRecord(0, 0, 0, -1, False)] * degree
        graphs.record(
            degree,
            lambda rows: self._join(None, nobody, degree, rows),
            lambda batch, ids: self._compute_logits(batch, ids, degree),
            attention=self.attentions[degree],
            width=width,
            group=self.groups[degree],
            meet=meet,
            device=self._device,
        )
        self.graphs = graphs

    def _find_graph(self, records: list[StepRecord], move: LayerMove | None) -> Recorded | None:
        degree = self.degree
        if self.graphs is None or move is not None or degree == 1:
            return None
        at = self.index % len(records) // degree * degree
        return self.graphs.find(degree, records[at : at + degree])

    def _replay(
        self, recorded: Recorded, own: ForwardBatch | None, records: list[StepRecord]
    ) -> torch.Tensor:
        union = self._join(own, records, self.degree, recorded.rows)
        assert union is not None
        return recorded.replay(own, union, self.attentions[self.degree])

    def _compute_logits(self, batch: ForwardBatch, ids: torch.Tensor, degree: int) -> torch.Tensor:
        """Own logits of a decode step of all layers, from own ids, each worker having as many."""
        ranks = self.collectives[degree]
        x = self.stack.embed_tokens(ranks.all_gather(ids))
        x = self._run_layers(UnionBatch(batch, None, []), degree, 0, len(self.layers), x)
        rows = [len(ids)] * degree
        head = JointHead(self.model.logits_processor, self.model.lm_head.weight, rows, ranks)
        return head.of_union(self._final_norm(x, batch))

    def _final_norm(self, x: torch.Tensor, batch: ForwardBatch) -> torch.Tensor:
        """Hidden states beside residual [tokens, 2 H] -> [tokens, H]."""
        batch.residual_stream = None
        normed = self.stack.layers[-1].ffn_boundary.from_pp(_proxy(x), batch)
        return residual_batch.final_norm(normed, batch, self.stack.norm)

    def synchronize(self) -> None:
        self._device.synchronize()

    def _joint_head(self, records: list[StepRecord]) -> JointHead | None:
        """The head that the workers who ran the last layer together share, if they do."""
        degree, weight = self.degree, self.model.lm_head.weight
        first = self.index % len(records) // degree * degree
        rows = rows_of_joint_head(records[first : first + degree], weight.shape[0])
        if degree == 1 or rows is None or not any(rows):
            return None
        return JointHead(self.model.logits_processor, weight, rows, self.collectives[degree])

    def _run(
        self,
        own: ForwardBatch | None,
        records: list[StepRecord],
        move: LayerMove | None,
        x: torch.Tensor,
    ) -> torch.Tensor:
        """Own token ids [tokens] int64 -> hidden states beside residual [tokens, 2 H].

        What the workers gather first are ids, of which each embeds all: a few bytes a token.
        """
        present, union, mine = 0, None, slice(None)
        for degree, first, end in self._segments(move):
            if degree != present:
                x, present = x[mine], degree
                union = self._join(own, records, degree)
                tokens = [0] * degree if union is None else union.tokens
                index = self.index % degree
                assert tokens[index] == len(x), f"{tokens=} {index=} {len(x)=}"
                start = sum(tokens[:index])
                mine = slice(start, start + len(x))
                if degree > 1 and union is not None:
                    x = self.collectives[degree].all_gather_rows(x, tokens)
            embed = self.stack.embed_tokens
            if union is None:
                x = embed.weight.new_zeros(0, 2 * embed.weight.shape[1])
            else:
                x = self._run_layers(union, degree, first, end, x if first else embed(x))
        return x[mine]

    def _join(
        self, own: ForwardBatch | None, records: list[StepRecord], degree: int, rows: int = 0
    ) -> UnionBatch | None:
        """What the instance of `degree` around this worker computes; None without any rows. `rows`:
        to fill up each worker's to."""
        if degree == 1:
            return None if own is None else UnionBatch(own, [], [len(own.input_ids)])
        # While layers are at two degrees, those at the lower join only some of the workers.
        at = self.index % len(records) // degree * degree
        return build_union(
            records[at : at + degree],
            self.mirrors[at : at + degree],
            self.chain,
            degree,
            size=self.size,
            page=self.page,
            device=self.stack.embed_tokens.weight.device,
            rows=rows,
        )

    def _run_layers(
        self, union: UnionBatch, degree: int, first: int, end: int, x: torch.Tensor
    ) -> torch.Tensor:
        batch, starts = union.batch, first == 0
        batch.residual_stream = None
        attention = self.attentions[degree]
        context = ForwardContext(attn_backend=attention)
        with self._stage(first, end, starts), forward_context(context), self._instance(degree):
            if degree == 1:
                attention.init_forward_metadata(batch)
            elif union.slots is not None:
                attention.init_ragged_metadata(batch, union.slots)
            if starts:
                out = self.stack(batch.input_ids, batch.positions, batch, input_embeds=x)
            else:
                out = self.stack(
                    batch.input_ids, batch.positions, batch, pp_proxy_tensors=_proxy(x)
                )
        return torch.cat([out["hidden_states"], out["residual"]], dim=1)

    @contextmanager
    def _instance(self, degree: int) -> Iterator[None]:
        """What SGLang's modules take for their ranks: those of this worker's instance."""
        if degree == 1:
            yield
            return
        group = self.groups[degree]
        # Experts are whole: without a group over which they are spread, or with one over which
        # they are cut, their sum would be left out, and the logits silently wrong.
        experts = get_parallel().override(
            moe_ep_size=degree,
            moe_ep_rank=self.chain.shard(degree, self.index % degree),
            moe_ep_group=group,
            moe_tp_size=1,
            moe_tp_rank=0,
        )
        with patch_tensor_parallel_group(group, owns_attention=True), experts:
            yield

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


def _proxy(x: torch.Tensor) -> PPProxyTensors:
    """Of hidden states beside residual [tokens, 2 H]."""
    hidden, residual = (half.contiguous() for half in x.chunk(2, dim=1))
    return PPProxyTensors({"hidden_states": hidden, "residual": residual})
