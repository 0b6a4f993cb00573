"""What the scheduler decides by is on the host: upstream's own batches never wait for a device."""

import itertools
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt import runtime_context
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.common import checkpoint_kv_cache, release_kv_cache
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from amoeba_sglang.adapters.model.host_rows import HostRows
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.adapters.worker.batch_rows import rows_of_batch
from amoeba_sglang.adapters.worker.slots import live_slots
from amoeba_sglang.control.worker.mirror import RowLedger
from amoeba_sglang.planes.kv.kv_row import KVRow

SLOTS, CONTEXT = 64, 64
_MODEL = SimpleNamespace(is_encoder_decoder=False, vocab_size=100, is_multimodal=False)


class Books:
    """Allocator, prefix cache and rows of a worker whose batches are on `device`.

    From a meta tensor nothing can be read, as it cannot from a GPU's without a wait: it raises.
    """

    def __init__(self, page, device):
        self.device, self.model = device, ReqToTokenPool(4, CONTEXT, device, False)
        self.allocator = ElasticAllocator(SLOTS * page, page, torch.float32, device, None, False)
        self.rows = self.allocator.rows_of_scheduler(self.model)
        self.tree = UnifiedRadixCache(
            CacheInitParams(
                disable=False,
                req_to_token_pool=self.rows,
                token_to_kv_pool_allocator=self.allocator,
                page_size=page,
                tree_components=(ComponentType.FULL,),
            )
        )

    def prefill(self, *requests):
        for req in requests:
            req.init_next_round_input(self.tree)
            req.extend_end = len(req.origin_input_ids)
        batch = ScheduleBatch.init_new(
            list(requests), self.rows, self.allocator, self.tree, _MODEL, False,
            SpeculativeAlgorithm.NONE,
        )  # fmt: skip
        batch.device = self.device
        batch.prepare_for_extend()
        return batch

    def decode(self, batch):
        for req in batch.reqs:
            req.output_ids.append(len(req.output_ids) + 50)
        batch.prepare_for_decode()


@pytest.fixture(scope="module", autouse=True)
def alone():
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    with runtime_context.use_context(context), context.override_server_args(device="cpu"):
        runtime_context.get_parallel().override_permanently(
            tp_rank=0, pp_rank=0, attn_tp_rank=0, attn_dp_rank=0
        )
        yield


def request(name, tokens):
    sampling = SamplingParams(max_new_tokens=16)
    sampling.normalize(None)
    return Req(name, "", array("q", tokens), sampling, vocab_size=100)


def history(page, device):
    """What peers are told of two requests that share a prefix, and which slots are live."""
    books, ledger, told = Books(page, device), RowLedger(), []
    first, second = (request(name, range(10)) for name in "ab")
    batch = books.prefill(first)
    told.append(rows_of_batch(batch, books.rows, ledger, page))
    for _ in range(6):
        books.decode(batch)
        told.append(rows_of_batch(batch, books.rows, ledger, page))
    checkpoint_kv_cache(first, books.tree)
    batch = books.prefill(second)
    # Which slots these tokens have only the prefix cache knew.
    assert second.prefix_len == 9 // page * page
    told.append(rows_of_batch(batch, books.rows, ledger, page))
    release_kv_cache(first, books.tree, checkpoint=True)
    told.append(live_slots(books.allocator))
    row = KVRow(books.rows, second, page, told.append)
    row.replace(np.array([0]), books.allocator.take_own(1))
    told += [row.slots(), live_slots(books.allocator)]
    assert batch.out_cache_loc.device.type == device
    return list(map(str, told))


@pytest.mark.parametrize("page", [1, 4])
def test_nothing_of_a_request_is_read_from_the_device(page):
    assert history(page, "meta") == history(page, "cpu")


def test_a_cpu_has_one_table():
    books = Books(1, "cpu")
    assert books.rows is books.model


WRITE = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(0, CONTEXT), st.integers(0, CONTEXT)),
    st.sets(st.tuples(st.integers(1, 4), st.integers(0, CONTEXT - 1)), min_size=1, max_size=6),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(WRITE, max_size=8))
def test_the_device_gets_every_change(writes):
    """Of a slice of a row, as the prefix cache writes, and of a token of several rows, as a step
    does."""
    model = ReqToTokenPool(4, CONTEXT, "cpu", enable_memory_saver=False)
    rows, fresh = HostRows(model), itertools.count(1)
    for write in writes:
        if isinstance(write, tuple):
            row, start, stop = write
            indices, count = (row, slice(start, stop)), max(0, stop - start)
        else:
            pairs = torch.tensor(sorted(write))
            indices, count = (pairs[:, 0], pairs[:, 1]), len(pairs)
        values = torch.tensor([next(fresh) for _ in range(count)], dtype=torch.int64)
        rows.write(indices, values.to(torch.int32))
    assert torch.equal(model.req_to_token, rows.req_to_token)
    assert rows.req_to_token.data_ptr() != model.req_to_token.data_ptr()
