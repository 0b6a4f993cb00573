"""A worker with a tiny model of upstream's, which runs joint steps in this process."""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt import runtime_context
from sglang.srt.model_executor.forward_batch_info import (
    CaptureHiddenMode,
    ForwardBatch,
    ForwardMode,
)
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.models.qwen3_moe import Qwen3MoeForCausalLM
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from transformers import LlamaConfig, Qwen3MoeConfig

from amoeba_sglang.adapters.cpu.attention import CpuAttention
from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.feed_forward import elastic_matrices
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.adapters.model.plane import ModelPlane
from amoeba_sglang.adapters.worker.connections import Movers
from amoeba_sglang.control.layout.locations import locations_at, slots_filled
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.transform.pace import Pace
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.kv.peer_mover import PeerKVMover
from amoeba_sglang.planes.kv.units import UnitBuffers
from amoeba_sglang.planes.pages.page_exchange import NoExchange
from amoeba_sglang.planes.pages.weight_store import WeightStore
from amoeba_sglang.planes.transformation import Transformation
from tests.adapters.threads import AtOnce, Circle

LAYERS, HIDDEN, HEADS, HEAD_DIM, VOCABULARY = 4, 32, 4, 8, 64
# Tokens that a request may have.
CONTEXT = 20
MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    head_dim=HEAD_DIM,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=True,
)

MIXTURE = Qwen3MoeConfig(
    **{name: getattr(MODEL, name) for name in (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings",
    )},
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    norm_topk_prob=True,
)  # fmt: skip


class Request:
    """A request at its home: `tokens` of prompt and output, of which `done` have KV in `slots`."""

    def __init__(self, row: int, tokens: Sequence[int], slots: np.ndarray) -> None:
        self.row, self.tokens, self.slots, self.done = row, list(tokens), slots, 0


class Worker:
    """One worker of a group; all have the same weights."""

    def __init__(
        self,
        index: int,
        chain: DegreeChain,
        circles: dict[int, Circle],
        page: int,
        make: Callable[[], Any],
    ) -> None:
        self.index, self.chain, self.page = index, chain, page
        self.circle = circles.get(chain.finest)
        # In a server each has a process of its own.
        CpuBackend.device = CpuDevice()
        self.context = make_context()
        with runtime_context.use_context(self.context):
            self.model = make()
            self.slots = 40
            self.pool = ElasticKVPool(
                self.slots * page, page, torch.float32, HEADS, HEAD_DIM, LAYERS, "cpu", False
            )
            self.table = torch.zeros(8, CONTEXT, dtype=torch.int32)
            runner = SimpleNamespace(
                use_mla_backend=False,
                spec_algorithm=SpeculativeAlgorithm.NONE,
                token_to_kv_pool=self.pool,
                req_to_token_pool=SimpleNamespace(req_to_token=self.table),
            )
            self.attention = CpuAttention(runner)
        stack = list(self.model.model.layers)
        pages = WeightPages(chain, 4096, elastic_matrices(stack, chain.finest))
        self.store = WeightStore(self.pool.memory, pages, index)
        self.layers = [
            LayerShards(layer, number, chain, index, groups=circles, store=self.store)
            for number, layer in enumerate(stack)
        ]
        self.executor = JointExecutor(
            self.model,
            self.layers,
            chain,
            size=self.slots,
            page=page,
            groups=circles,
            collectives=circles,
            attentions=dict.fromkeys(chain.degrees, self.attention),
            device=CpuDevice(),
        )
        # Slots of a request are scattered.
        order = np.random.default_rng(index).permutation(self.slots) + 1
        self._free = list(map(int, order))
        self.requests: list[Request] = []

    def switch(self, layers: range, degree: int) -> None:
        for number in layers:
            self.layers[number].switch(degree)
            self.pool.view_layer(number, degree)

    def begin(self, tokens: Sequence[int]) -> Request:
        """A request comes here."""
        count = slots_filled(CONTEXT, self.page)
        slots, self._free = np.array(self._free[:count]), self._free[count:]
        request = Request(len(self.requests), tokens, slots)
        locations = locations_at(slots, 0, CONTEXT, self.page)
        self.table[request.row, :CONTEXT] = torch.from_numpy(locations)
        self.requests.append(request)
        return request

    def record(self, step: int, scores_prompts: bool) -> StepRecord:
        """Of a step in which all new tokens of all requests are computed."""
        rows = []
        for request in self.requests:
            length = len(request.tokens)
            first, stop = request.done // self.page, slots_filled(length, self.page)
            new = length - request.done
            rows.append(Row(request.row, length, new, first, request.slots[first:stop]))
        extend = any(row.extend_len > 1 for row in rows)
        return StepRecord(
            1, step, 0, -1, bool(rows),
            extend=extend, scores_prompts=scores_prompts, rows=tuple(rows),
        )  # fmt: skip

    def batch(self) -> ForwardBatch | None:
        """Of the same step, as upstream hands it over."""
        if not self.requests:
            return None
        lengths = [len(request.tokens) for request in self.requests]
        starts = [request.done for request in self.requests]
        new = [length - start for length, start in zip(lengths, starts, strict=True)]
        rows = [request.row for request in self.requests]
        parts = [(r.tokens[r.done :], range(r.done, len(r.tokens))) for r in self.requests]
        positions = torch.tensor([at for _, part in parts for at in part])
        where = [self.table[r.row, r.done : len(r.tokens)].long() for r in self.requests]
        extends = any(count > 1 for count in new)
        batch = ForwardBatch(
            forward_mode=ForwardMode.EXTEND if extends else ForwardMode.DECODE,
            batch_size=len(rows),
            input_ids=torch.tensor([token for tokens, _ in parts for token in tokens]),
            req_pool_indices=torch.tensor(rows),
            seq_lens=torch.tensor(lengths),
            out_cache_loc=torch.cat(where),
            seq_lens_sum=sum(lengths),
            seq_lens_cpu=torch.tensor(lengths),
            positions=positions,
            spec_algorithm=SpeculativeAlgorithm.NONE,
            capture_hidden_mode=CaptureHiddenMode.NULL,
        )
        if extends:
            batch.extend_num_tokens = sum(new)
            batch.extend_seq_lens, batch.extend_seq_lens_cpu = torch.tensor(new), new
            batch.extend_prefix_lens = torch.tensor(starts)
            batch.extend_prefix_lens_cpu = starts
        return batch

    @torch.no_grad()
    def step(self, records: list[StepRecord], moving: Transformation | None) -> torch.Tensor | None:
        """Take part in one joint step; logits of own rows, None without any."""
        if moving is not None:
            moving.advance(self.live_slots())
        with runtime_context.use_context(self.context):
            self.executor.hear(records)
            self.executor.expect(records, moving)
            own = self.batch()
            if own is None:
                self.executor.follow()
                return None
            logits = self.executor.forward(own).next_token_logits
        self._done()
        return logits

    @torch.no_grad()
    def step_alone(self) -> torch.Tensor:
        """As upstream does without any peer, at degree 1."""
        own, context = self.batch(), ForwardContext(attn_backend=self.attention)
        assert own is not None
        with runtime_context.use_context(self.context), forward_context(context):
            assert self.executor.forward(own) is None
            self.attention.init_forward_metadata(own)
            output = self.model.forward(own.input_ids, own.positions, own)
        self._done()
        return output.next_token_logits

    def _done(self) -> None:
        for request in self.requests:
            request.done = len(request.tokens)

    def live_slots(self) -> np.ndarray:
        """Those with KV, sorted; nobody may look at what others hold."""
        parts = [r.slots[: slots_filled(r.done, self.page)] for r in self.requests]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def transformation(
        self, order: TransformOrder, circle: Circle, pools: list[UnitBuffers]
    ) -> Transformation:
        """Its part of an order for the whole group; weights stay, `pools`: the KV of all."""
        peers = [None if index == self.index else pool for index, pool in enumerate(pools)]
        mover = PeerKVMover(pools[self.index], peers, circle, 1 << 10)
        plane = ModelPlane(
            self.executor,
            self.pool,
            Movers({len(pools): mover}, NoExchange()),
            device=CpuDevice(),
            degrees=self.chain.degrees,
            staging_bytes=1 << 10,
            crowding=1.0,
        )
        return Transformation(
            order,
            self.chain,
            self.index,
            plane=plane,
            block=circle,
            moving=circle,
            pace=Pace(1),
            plain_seconds=0.0,
            helper=AtOnce(),
            now=time.monotonic,
        )


def make_context() -> runtime_context.RuntimeContext:
    """What SGLang's code finds in a worker process."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    config = SimpleNamespace(
        page_size_kib=4, mlp_elements=3 * HIDDEN * 48, group_size=4, emulation=None, gpu=None
    )
    alone = SimpleNamespace(world_size=1, rank_in_group=0, is_first_rank=True, is_last_rank=True)
    with runtime_context.use_context(context):
        context.override_server_args(device="cpu", _amoeba=config).install()
        runtime_context.get_parallel().override_permanently(
            tp_rank=0, pp_rank=0, attn_tp_rank=0, attn_dp_rank=0, moe_ep_rank=0, moe_tp_rank=0,
            tp_group=alone, attn_tp_group=alone, pp_group=alone,
        )  # fmt: skip
    return context


def make_model() -> LlamaForCausalLM:
    """As it is loaded: nothing of it is elastic."""
    model = LlamaForCausalLM(MODEL)
    _fill(model)
    return model


def make_mixture() -> Qwen3MoeForCausalLM:
    """The same with experts."""
    model = Qwen3MoeForCausalLM(MIXTURE)
    _fill(model)
    return model


def _fill(model: torch.nn.Module) -> None:
    """The same random weights every time, which let the residual neither vanish nor explode."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.data.copy_(values * scale + (parameter.dim() == 1))
