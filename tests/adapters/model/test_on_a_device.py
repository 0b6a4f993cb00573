"""A joint step of tensors that are on a GPU in name: nothing is forgotten on the host, and nothing
is read back."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from sglang.srt import runtime_context
from sglang.srt.layers.rotary_embedding import factory
from sglang.srt.model_executor.forward_batch_info import (
    CaptureHiddenMode,
    ForwardBatch,
    ForwardMode,
)
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from torch._subclasses.fake_tensor import FakeTensorMode

from amoeba_sglang.adapters.model.feed_forward import elastic_matrices
from amoeba_sglang.adapters.model.joint_step import JointExecutor
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.control.worker.step_record import Row, StepRecord
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.pages.weight_store import WeightStore
from tests.adapters.device_reads import Reads
from tests.adapters.model.joint_model import LAYERS, MODEL, VOCABULARY

CHAIN, SLOTS, PAGE = DegreeChain((1, 2, 4)), 40, 4


class Alone:
    """Of `size` workers the one at `rank`, whose peers bring the same."""

    def __init__(self, rank, size):
        self.rank = self.rank_in_group = rank
        self.size = self.world_size = size

    def all_reduce(self, x):
        return x

    def all_gather(self, x, dim=0):
        return torch.cat([x] * self.size, dim)

    def all_gather_rows(self, x, rows):
        assert len(x) == rows[self.rank]
        return x.new_empty(sum(rows), *x.shape[1:])


class Attention:
    """Computes nothing of tensors of its device."""

    def init_ragged_metadata(self, batch, slots):
        """Nothing."""

    def init_forward_metadata(self, batch):
        """Nothing."""

    def forward(self, q, k, v, layer, forward_batch, save_kv_cache=True, **kwargs):
        assert q.device == k.device == forward_batch.out_cache_loc.device
        return q.index_select(0, torch.arange(len(q), device=q.device)) + k.sum() * 0


class NamedMemory:
    """Ranges of a device that is not here."""

    page_size = 4096
    size = pages = 0
    zeroed = True

    def reserve(self, size):
        return self

    def create(self, count, as_extent=False):
        self.pages += count
        return range(self.pages - count, self.pages)

    def map(self, where, offset, pages, populate=False):
        """Nothing."""

    def tensor(self, offset, shape, dtype):
        return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.fixture(scope="module")
def mode():
    """In which tensors have a device and no bytes, and upstream's context is that of one worker."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    alone = SimpleNamespace(
        world_size=1, rank_in_group=0, is_first_rank=True, is_last_rank=True, device_group=None
    )
    with runtime_context.use_context(context), context.override_server_args(device="cpu"):
        runtime_context.get_parallel().override_permanently(
            tp_rank=0, pp_rank=0, attn_tp_rank=0, attn_dp_rank=0,
            tp_group=alone, attn_tp_group=alone, pp_group=alone,
        )  # fmt: skip
        # Upstream keeps what rotates positions for all models of a length.
        with mock.patch.dict(factory._ROPE_DICT, clear=True), FakeTensorMode() as fake:
            yield fake


def make_executor(index=0):
    with torch.device("cuda"):
        model = LlamaForCausalLM(MODEL)
    stack = list(model.model.layers)
    pages = WeightPages(CHAIN, NamedMemory.page_size, elastic_matrices(stack, CHAIN.finest))
    store = WeightStore(NamedMemory(), pages, index)
    circles = {d: Alone(index % d, d) for d in CHAIN.degrees[1:]}
    layers = [
        LayerShards(layer, number, CHAIN, index, groups=circles, store=store)
        for number, layer in enumerate(stack)
    ]
    return JointExecutor(
        model, layers, CHAIN, size=SLOTS, page=PAGE,
        groups=circles, collectives=circles, device=CpuDevice(),
        attentions=dict.fromkeys(CHAIN.degrees, Attention()),
    )  # fmt: skip


def record(index, rows):
    """Of a worker with rows of (tokens, new ones)."""
    told = []
    for number, (length, new) in enumerate(rows):
        count = -(-length // PAGE)
        slots = np.arange(1, count + 1) + 5 * number
        told.append(Row(number, length, new, 0, slots))
    extend = any(new > 1 for _, new in rows)
    return StepRecord(1, index, 0, -1, bool(rows), extend=extend, rows=tuple(told))


def own_batch(rows, extends):
    lengths, new = zip(*rows, strict=True)
    begins = [length - count for length, count in rows]
    on = {"device": "cuda"}
    batch = ForwardBatch(
        forward_mode=ForwardMode.EXTEND if extends else ForwardMode.DECODE,
        batch_size=len(rows),
        input_ids=torch.zeros(sum(new), dtype=torch.int64, **on),
        req_pool_indices=torch.arange(len(rows), **on),
        seq_lens=torch.tensor(lengths).to("cuda"),
        out_cache_loc=torch.zeros(sum(new), dtype=torch.int64, **on),
        seq_lens_sum=sum(lengths),
        seq_lens_cpu=torch.tensor(lengths),
        positions=torch.zeros(sum(new), dtype=torch.int64, **on),
        spec_algorithm=SpeculativeAlgorithm.NONE,
        capture_hidden_mode=CaptureHiddenMode.NULL,
    )
    if extends:
        batch.extend_num_tokens = sum(new)
        batch.extend_seq_lens = torch.tensor(new).to("cuda")
        batch.extend_seq_lens_cpu = list(new)
        batch.extend_prefix_lens = torch.tensor(begins).to("cuda")
        batch.extend_prefix_lens_cpu = begins
    return batch


STEPS = {
    "decode": [[(9, 1), (5, 1)], [(7, 1)], [], [(3, 1)]],
    "mixed": [[(9, 1)], [(12, 8)], [], [(3, 1)]],
    "prefill": [[(9, 9), (8, 4)], [(7, 7)], [], []],
    "of a peer": [[], [(7, 1)], [], []],
}


def run(executor, rows, degrees):
    for number, degree in enumerate(degrees):
        executor.layers[number].switch(degree)
    records = [record(index, mine) for index, mine in enumerate(rows)]
    executor.hear(records)
    executor.expect(records, None)
    if not rows[0]:
        executor.follow()
        return None
    extends = any(new > 1 for _, new in rows[0])
    return executor.forward(own_batch(rows[0], extends)).next_token_logits


@pytest.mark.parametrize(
    "degrees", [[2] * LAYERS, [4] * LAYERS, [1, 2, 2, 2], [2, 2, 4, 4]], ids=str
)
@pytest.mark.parametrize("step", STEPS)
def test_a_joint_step_stays_on_the_device(mode, step, degrees):
    executor, rows, reads = make_executor(), STEPS[step], Reads()
    with torch.no_grad(), reads:
        logits = run(executor, rows, degrees)
    if rows[0]:
        assert logits.shape == (len(rows[0]), VOCABULARY) and logits.device.type == "cuda"
    assert reads.places == []


def test_what_is_read_back_is_seen(mode):
    reads = Reads()
    with reads:
        torch.zeros(3, device="cuda").cpu()
        torch.empty(3).copy_(torch.zeros(3, device="cuda"))
    assert [place.split(":")[0] for place in reads.places] == [__file__, __file__]


class Forgetful(Alone):
    """Hands over what is on the host."""

    def all_gather_rows(self, x, rows):
        return super().all_gather_rows(x, rows).new_empty(sum(rows), *x.shape[1:], device="cpu")


def test_what_is_forgotten_on_the_host_is_seen(mode):
    executor = make_executor()
    executor.collectives[2] = Forgetful(0, 2)
    with torch.no_grad(), pytest.raises(Exception, match="cuda:0.*cpu|cpu.*cuda:0"):
        run(executor, STEPS["decode"], [2] * LAYERS)
