"""CpuAttention against attention spelled out one token and one head at a time."""

import math
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from amoeba_sglang.adapters.cpu import attention_plan
from amoeba_sglang.adapters.cpu.attention import CpuAttention
from amoeba_sglang.control.layout.locations import locations_at, slots_filled
from amoeba_sglang.errors import ConfigError

SIZE = 32
LOCATIONS = 4096
CONTEXT = 1500


class Pool:
    """A KV pool of one layer with slots of `page` tokens, or None for upstream's buffers."""

    start_layer = 0

    def __init__(self, kv_heads: int, dtype: torch.dtype, page: int | None) -> None:
        self.dtype, self.page = dtype, page or 1
        shape = (LOCATIONS // self.page, kv_heads, self.page, SIZE)
        self.keys, self.values = (torch.full(shape, float("nan"), dtype=dtype) for _ in range(2))
        self.shape = shape if page else (LOCATIONS, kv_heads, SIZE)

    def get_key_buffer(self, layer_id):
        return self.keys.view(self.shape)

    def get_value_buffer(self, layer_id):
        return self.values.view(self.shape)

    def write(self, locations):
        """Random keys and values of a row's first tokens; its slots were cleared at the first."""
        slots = locations // self.page
        for buffer in (self.keys, self.values):
            buffer[slots] = 0.0
            new = torch.randn(len(locations), buffer.shape[1], SIZE).to(self.dtype)
            buffer[slots, :, locations % self.page] = new

    def read(self, locations, head):
        where = locations // self.page, head, locations % self.page
        return self.keys[where], self.values[where]


class Scene:
    """A random batch: row i has lengths[i] tokens, of which queries[i] are computed now."""

    def __init__(
        self, mode, lengths, queries, *, heads=6, kv_heads=2, dtype=torch.float32, page=None
    ):
        torch.manual_seed(sum(lengths) + len(lengths))
        self.lengths, self.queries, self.heads, self.kv_heads = lengths, queries, heads, kv_heads
        self.pool = Pool(kv_heads, dtype, page)
        # Slots of a request are scattered; those of no request stay NaN and must not leak in.
        page = self.pool.page
        counts = [slots_filled(length, page) for length in lengths]
        order = torch.randperm(LOCATIONS // page - 1) + 1
        self.slots = list(order[: sum(counts)].split(counts)) if lengths else []
        self.locations = [
            torch.from_numpy(locations_at(slots.numpy(), 0, length, page))
            for slots, length in zip(self.slots, lengths, strict=True)
        ]
        self.rows = torch.randperm(len(lengths) + 3)[: len(lengths)]
        self.table = torch.zeros(len(lengths) + 3, CONTEXT, dtype=torch.int32)
        for row, locations in zip(self.rows, self.locations, strict=True):
            self.table[row, : len(locations)] = locations
        tokens = sum(queries)
        self.q = torch.randn(tokens, heads * SIZE).to(dtype)
        self.k = torch.randn(tokens, kv_heads, SIZE).to(dtype)
        self.v = torch.randn(tokens, kv_heads, SIZE).to(dtype)
        new = [s[len(s) - n :] for s, n in zip(self.locations, queries, strict=True)]
        for locations, n in zip(self.locations, queries, strict=True):
            self.pool.write(locations[: len(locations) - n])
        self.batch = SimpleNamespace(
            forward_mode=mode,
            seq_lens=torch.tensor(lengths, dtype=torch.int64),
            extend_seq_lens=torch.tensor(queries, dtype=torch.int32),
            req_pool_indices=self.rows,
            out_cache_loc=torch.cat(new) if new else torch.empty(0, dtype=torch.int64),
            encoder_lens=None,
        )
        self.runner = SimpleNamespace(
            use_mla_backend=False,
            spec_algorithm=SimpleNamespace(is_none=lambda: True),
            token_to_kv_pool=self.pool,
            req_to_token_pool=SimpleNamespace(req_to_token=self.table),
        )
        self.layer = RadixAttention(heads, SIZE, SIZE**-0.5, kv_heads, layer_id=0)

    def run(self, backend):
        return backend.forward(self.q, self.k, self.v, self.layer, self.batch)

    def expect(self) -> torch.Tensor:
        """[tokens, heads * SIZE] in float64; call it after `run`, which stores the new keys and
        values.
        """
        out, token = torch.zeros(sum(self.queries), self.heads, SIZE, dtype=torch.float64), 0
        for locations, count in zip(self.locations, self.queries, strict=True):
            for index in range(count):
                seen = locations[: len(locations) - count + index + 1]
                for head in range(self.heads):
                    kv = head // (self.heads // self.kv_heads)
                    keys, values = self.pool.read(seen, kv)
                    query = self.q.view(-1, self.heads, SIZE)[token, head].double()
                    weights = torch.softmax(keys.double() @ query / math.sqrt(SIZE), 0)
                    out[token, head] = weights @ values.double()
                token += 1
        return out.view(len(out), -1)

    def check(self, out):
        limit = {torch.float32: 2e-6, torch.bfloat16: 2e-2}[self.pool.dtype]
        expected = self.expect()
        assert out.shape == expected.shape
        assert (out.double() - expected).abs().max() < limit


PAGES = (None, 1, 16)
BATCHES = {
    "decode": (ForwardMode.DECODE, [7, 7, 7], [1, 1, 1]),
    "decode uneven": (ForwardMode.DECODE, [1, 300, 5, 299], [1] * 4),
    "decode in several groups": (ForwardMode.DECODE, [3, 1400, 2, 60, 1300, 4], [1] * 6),
    "decode one": (ForwardMode.DECODE, [33], [1]),
    "prefill": (ForwardMode.EXTEND, [5, 40, 2], [5, 40, 2]),
    "chunk after a prefix": (ForwardMode.EXTEND, [300, 9], [280, 3]),
    "chunk longer than a query block": (ForwardMode.EXTEND, [700], [600]),
    "union of chunks and decode rows": (ForwardMode.EXTEND, [50, 900, 8, 700, 1], [20, 1, 8, 1, 1]),
    "mixed": (ForwardMode.MIXED, [30, 20, 25], [30, 1, 1]),
    "extend of single tokens": (ForwardMode.EXTEND, [90, 30], [1, 1]),
    "row without tokens": (ForwardMode.EXTEND, [9, 12], [0, 4]),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("source", ["runner", "table", "ragged"])
@pytest.mark.parametrize("page", PAGES)
def test_matches_the_definition(name, source, page):
    scene = Scene(*BATCHES[name], page=page)
    if source == "table":
        table, scene.runner.req_to_token_pool = scene.table, SimpleNamespace(req_to_token=None)
        backend = CpuAttention(scene.runner, table)
    else:
        backend = CpuAttention(scene.runner)
    if source == "ragged":
        scene.runner.req_to_token_pool.req_to_token = None
        backend.init_ragged_metadata(scene.batch, scene.slots)
    else:
        backend.init_forward_metadata(scene.batch)
    scene.check(scene.run(backend))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("page", PAGES)
def test_head_counts_and_dtypes(heads, kv_heads, dtype, page):
    for name in ("decode uneven", "union of chunks and decode rows"):
        scene = Scene(*BATCHES[name], heads=heads, kv_heads=kv_heads, dtype=dtype, page=page)
        backend = CpuAttention(scene.runner)
        backend.init_forward_metadata(scene.batch)
        scene.check(scene.run(backend))


@pytest.mark.parametrize("page", PAGES)
def test_one_backend_serves_batch_after_batch(page):
    scenes = [Scene(*BATCHES[name], page=page) for name in BATCHES]
    backend = CpuAttention(scenes[0].runner)
    for scene in scenes:
        backend.token_to_kv_pool, backend._table = scene.pool, scene.table
        backend.init_forward_metadata(scene.batch)
        scene.check(scene.run(backend))


@pytest.mark.parametrize("mode", [ForwardMode.DECODE, ForwardMode.EXTEND, ForwardMode.IDLE])
def test_batch_without_rows(mode):
    scene = Scene(mode, [], [])
    backend = CpuAttention(scene.runner)
    for init in (
        lambda: backend.init_forward_metadata(scene.batch),
        lambda: backend.init_ragged_metadata(scene.batch, []),
    ):
        init()
        assert scene.run(backend).shape == (0, scene.heads * SIZE)


def test_long_row_does_not_pad_short_ones():
    lengths = [8000] + [100] * 31
    slots = attention_plan.RowSlots(torch.arange(sum(lengths)), [0] * 32, lengths, 1, 1)
    plan = attention_plan.plan_attention(slots, [1] * 32, torch.float32)
    assert sum(group.slots.slots.numel() for group in plan.groups) == sum(lengths)
    assert len(plan.groups) == 2


def test_like_lengths_share_a_call():
    lengths = [256 + i for i in range(8)]
    slots = attention_plan.RowSlots(torch.arange(512), [0] * 8, lengths, 1, 1)
    (group,) = attention_plan.plan_attention(slots, [1] * 8, torch.float32).groups
    assert group.tokens is None
    assert group.longest == 263


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window_size": 128},
        {"logit_cap": 30.0},
        {"is_cross_attention": True},
        {"attn_type": AttentionType.ENCODER_ONLY},
        {"v_head_dim": 16},
    ],
)
def test_layer_it_cannot_compute_is_refused(change):
    scene = Scene(*BATCHES["decode"])
    vars(scene.layer).update(change)
    backend = CpuAttention(scene.runner)
    backend.init_forward_metadata(scene.batch)
    with pytest.raises(ConfigError, match="amoeba_cpu does not support"):
        scene.run(backend)


def test_model_or_flag_it_cannot_serve_is_refused():
    runner = Scene(*BATCHES["decode"]).runner
    with pytest.raises(ConfigError, match="MLA"):
        CpuAttention(SimpleNamespace(**vars(runner) | {"use_mla_backend": True}))
    speculative = SimpleNamespace(is_none=lambda: False)
    with pytest.raises(ConfigError, match="--speculative-algorithm"):
        CpuAttention(SimpleNamespace(**vars(runner) | {"spec_algorithm": speculative}))
    runner.token_to_kv_pool.dtype = torch.float8_e4m3fn
    with pytest.raises(ConfigError, match="--kv-cache-dtype"):
        CpuAttention(runner)


def test_unknown_batch_mode_and_argument_are_refused():
    scene = Scene(*BATCHES["decode"])
    backend = CpuAttention(scene.runner)
    backend.init_forward_metadata(scene.batch)
    with pytest.raises(ConfigError, match="sinks"):
        backend.forward(
            scene.q, scene.k, scene.v, scene.layer, scene.batch, sinks=torch.zeros(scene.heads)
        )
    scene.batch.forward_mode = ForwardMode.TARGET_VERIFY
    with pytest.raises(ConfigError, match="TARGET_VERIFY"):
        backend.init_forward_metadata(scene.batch)
