"""Upstream's pool over ranges that grow, made without a server."""

from types import SimpleNamespace

import pytest
import torch

from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.model import kv_pool
from amoeba_sglang.adapters.model.kv_pool import ElasticKVPool
from amoeba_sglang.planes.device.cpu import CpuDevice

SLOTS, HEADS, HEAD_DIM, LAYERS = 6, 4, 8, 3


@pytest.fixture(params=[1, 4])
def page(request):
    return request.param


@pytest.fixture
def pools(monkeypatch, page):
    config = SimpleNamespace(
        page_size_kib=4, mlp_elements=4096, group_size=4, emulation=None, gpu=None
    )
    monkeypatch.setattr(kv_pool, "get_server_args", lambda: SimpleNamespace(_amoeba=config))

    def of_a_process():
        monkeypatch.setattr(CpuBackend, "device", CpuDevice())
        return ElasticKVPool(
            SLOTS * page, page, torch.float32, HEADS, HEAD_DIM, LAYERS, "cpu", False
        )

    return [of_a_process() for _ in range(2)]


def numbered(pool):
    for layer in range(LAYERS):
        for which, part in enumerate(pool.blocks[layer]):
            part.copy_(torch.arange(part.numel()).view(part.shape) + 1000 * (2 * layer + which))


def test_at_the_start_a_slot_has_all_heads_of_its_tokens(pools, page):
    pool = pools[0]
    for buffers in (pool.k_buffer, pool.v_buffer):
        shape = (SLOTS + 1, HEADS, page, HEAD_DIM)
        assert [buffer.shape for buffer in buffers] == [shape] * LAYERS
    assert pool.get_kv_size_bytes() == (pool.k_buffer[0].nbytes * LAYERS,) * 2
    pool.get_key_buffer(1)[2] = 7.0
    assert bool((pool.blocks[1][0][2] == 7).all())


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_view_holds_the_same_bytes_with_more_slots_of_fewer_heads(pools, page, degree):
    pool = pools[0]
    numbered(pool)
    pool.view_layer(1, degree)
    view = pool.v_buffer[1]
    assert view.shape == ((SLOTS + 1) * degree, HEADS // degree, page, HEAD_DIM)
    assert torch.equal(view.view(-1), pool.blocks[1][1].view(-1))
    assert pool.k_buffer[0].shape == (SLOTS + 1, HEADS, page, HEAD_DIM)


def test_views_follow_growth_and_the_first_rows_stay(pools, page):
    pool = pools[0]
    numbered(pool)
    spare = pool.memory.create(2 * LAYERS * 2)
    pool.ranges.grow(spare)
    rows = pool.ranges.rows
    assert rows == (1 + 2) * 4096 // (HEADS * page * HEAD_DIM * 4)
    for layer in range(LAYERS):
        pool.view_layer(layer, 2)
        for buffer, block in zip(
            (pool.k_buffer[layer], pool.v_buffer[layer]), pool.blocks[layer], strict=True
        ):
            assert buffer.shape == (2 * rows, HEADS // 2, page, HEAD_DIM)
            buffer[2 * (SLOTS + 1) :] = -1.0
            assert torch.equal(buffer[: 2 * (SLOTS + 1)].reshape(-1), block.view(-1))
    pool.ranges.shrink()
    pool.view_layer(0, 1)
    assert len(pool.k_buffer[0]) == SLOTS + 1


@pytest.mark.parametrize("staging_bytes", [1, 100, 1 << 20])
def test_slots_are_copied_in_every_layer_with_little_extra_memory(pools, staging_bytes):
    pool = pools[0]
    numbered(pool)
    for layer in range(LAYERS):
        pool.view_layer(layer, 2)
    before = [buffer.clone() for buffer in (*pool.k_buffer, *pool.v_buffer)]
    source, target = torch.tensor([3, 9, 4]), torch.tensor([10, 2, 13])
    pool.copy_slots(source, target, staging_bytes)
    for buffer, old in zip((*pool.k_buffer, *pool.v_buffer), before, strict=True):
        assert torch.equal(buffer[target], old[source])
        old[target] = old[source]
        assert torch.equal(buffer, old)


def test_a_peers_blocks_are_its_own_in_the_same_order(pools):
    own, other = pools
    numbered(other)
    handle = other.memory.export()
    opened = own.memory.open_peer(handle)
    for seen, block in zip(own.peer_blocks(opened, handle), other.blocks, strict=True):
        assert torch.equal(seen[0], block[0]) and torch.equal(seen[1], block[1])


def test_pools_of_different_sizes_are_refused(pools):
    own, other = pools
    other.memory.create(1)
    handle = other.memory.export()
    with pytest.raises(AssertionError, match="memory of two workers differs"):
        own.peer_blocks(own.memory.open_peer(handle), handle)
