import pytest
import torch

from amoeba_sglang.adapters.emulated.kv_pool import EmulatedKVPool


def make(page=1):
    return EmulatedKVPool(1_000_000, page, torch.bfloat16, 8, 128, 3, "cpu", False)


def test_millions_of_slots_take_no_memory():
    pool = make()
    for buffer in (*pool.k_buffer, *pool.v_buffer):
        assert buffer.shape == (1_000_001, 8, 128)
        assert buffer.untyped_storage().nbytes() == 8 * 128 * 2
    assert len(pool.k_buffer) == len(pool.v_buffer) == 3


def test_pages_of_several_tokens_are_not_emulated():
    with pytest.raises(AssertionError):
        make(page=16)
