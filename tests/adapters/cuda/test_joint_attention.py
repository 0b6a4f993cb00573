"""Upstream's attentions of GPUs over our pools and joint slots, at every degree, by reference
kernels."""

import pytest
import torch
from sglang.srt.layers.radix_attention import RadixAttention

from amoeba_sglang.control.layout.locations import locations_at
from amoeba_sglang.planes.reference.calls import KernelRefusal
from tests.adapters.cuda.attentions import (
    CONTEXT,
    DIM,
    HEADS,
    KINDS,
    KV_HEADS,
    make,
    make_union,
)


def attend(attention, union, degree, dtype):
    """Random new tokens [tokens, H / d, D] through one layer: the queries, and what comes out."""
    generator, tokens = torch.Generator().manual_seed(2), sum(union.tokens)
    query, keys, values = (
        torch.randn(tokens, heads // degree, DIM, generator=generator).to(dtype)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    layer = RadixAttention(HEADS // degree, DIM, DIM**-0.5, KV_HEADS // degree, layer_id=0)
    attention.init_ragged_metadata(union.batch, union.slots)
    decodes = union.batch.forward_mode.is_decode()
    forward = attention.forward_decode if decodes else attention.forward_extend
    out = forward(query.flatten(1), keys, values, layer, union.batch)
    return query, out.view(tokens, -1, DIM)


def by_definition(query, pool, slots, length, page):
    """[new, heads, D] of the last tokens of one row, from the bytes of the pool at `slots`."""
    where = torch.from_numpy(locations_at(slots.numpy(), 0, length, page))
    group, seen = HEADS // KV_HEADS, length - len(query)
    keys, values = (
        (buffer[where // page, :, where % page] if buffer.dim() == 4 else buffer[where])
        .float()
        .repeat_interleave(group, 1)
        for buffer in (pool.k_buffer[0], pool.v_buffer[0])
    )
    out = []
    for number, token in enumerate(query.float()):
        scores = torch.einsum("hd,khd->hk", token, keys[: seen + number + 1]) * DIM**-0.5
        out.append(torch.einsum("hk,khd->hd", scores.softmax(-1), values[: seen + number + 1]))
    return torch.stack(out)


STEPS = {
    "decode": [[(37, 1), (16, 1)], [], [(5, 1)], [(50, 1)]],
    "mixed": [[(37, 1)], [(40, 24), (9, 1)], [], [(50, 1)]],
    "prefill": [[(37, 37)], [(40, 24)], [(16, 16)], []],
}


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("step", STEPS)
def test_joint_rows_see_their_own_tokens_and_no_others(kind, degree, step):
    (pool, attention), (_, dtype, page) = make(kind, degree), KINDS[kind]
    rows = STEPS[step][:degree]
    union = make_union(rows, page, degree)
    query, found = attend(attention, union, degree, dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 0.02
    at = 0
    flat = [row for mine in rows for row in mine]
    for slots, (length, new) in zip(union.slots, flat, strict=True):
        expected = by_definition(query[at : at + new], pool, slots, length, page)
        mine = found[at : at + new].float()
        torch.testing.assert_close(mine, expected, atol=tolerance, rtol=tolerance)
        at += new


@pytest.mark.parametrize("kind", ["trtllm by XQA", "trtllm-gen"], indirect=True)
def test_pages_that_the_kernel_has_not_are_refused(kind):
    _, attention = make(kind, 2, page=8)
    with pytest.raises(KernelRefusal, match="pages of 8 tokens"):
        attend(attention, make_union([[(9, 1)], []], 8, 2), 2, torch.bfloat16)


@pytest.mark.parametrize("kind", ["flashinfer"], indirect=True)
def test_a_plan_for_other_heads_is_refused(kind):
    pool, attention = make(kind, 2)
    pool.view_layer(0, 4)
    union = make_union([[(9, 1)], [], [], []], 1, 4)
    with pytest.raises(KernelRefusal, match=r"planned for \(4, 2\) heads, called with 2 and 1"):
        attend(attention, union, 4, torch.bfloat16)


@pytest.mark.parametrize("kind", ["fa3 by token"], indirect=True)
def test_what_was_planned_for_all_heads_is_refused_at_another_degree(kind):
    """As upstream plans its own decode steps; joint steps leave the plan to the kernel."""
    _, attention = make(kind, 2)
    union = make_union([[(9, 1)], []], 1, 2)
    plan_of, lengths = attention._compute_scheduler_metadata, union.batch.seq_lens.int()
    joint = type(attention).init_ragged_metadata

    def plan_too(batch, slots):
        joint(attention, batch, slots)
        ends = attention.forward_metadata.cu_seqlens_q
        attention.forward_metadata.scheduler_metadata = plan_of(1, 9, lengths, ends)

    attend(attention, union, 2, torch.bfloat16)
    attention.init_ragged_metadata = plan_too
    with pytest.raises(KernelRefusal, match=r"planned for \[1, 8, 4, 16\], called with \[1, 4, 2"):
        attend(attention, union, 2, torch.bfloat16)


@pytest.mark.parametrize("degree", [2, 4])
def test_a_recorded_step_attends_over_what_it_is_filled_with(kind, degree):
    """In the memory that it was made with, whatever was in it before."""
    (_, attention), (_, dtype, page) = make(kind, degree), KINDS[kind]
    empty = make_union([[] for _ in range(degree)], page, degree, rows=2)
    metadata = attention.make_joint_metadata(empty.batch, empty.slots, CONTEXT // page)
    assert attention.forward_metadata is metadata
    memory = addresses(metadata)
    for rows in ([[(50, 1)], [(37, 1), (60, 1)], [], [(9, 1)]], STEPS["decode"]):
        union = make_union(rows[:degree], page, degree, rows=2)
        _, expected = attend(attention, union, degree, dtype)
        attention.forward_metadata = metadata
        attention.fill_joint_metadata(metadata, union.batch, union.slots)
        filled, attention.init_ragged_metadata = attention.init_ragged_metadata, lambda *_: None
        _, found = attend(attention, union, degree, dtype)
        attention.init_ragged_metadata = filled
        assert torch.equal(found, expected)
    assert memory == addresses(metadata)


def test_recorded_steps_of_all_sizes_share_the_room_for_slots(kind):
    """The largest comes first, and is not disturbed by what a smaller one attends over."""
    (_, attention), (_, dtype, page) = make(kind, 2), KINDS[kind]
    made = {}
    for rows in (4, 2):
        empty = make_union([[], []], page, 2, rows=rows)
        made[rows] = attention.make_joint_metadata(empty.batch, empty.slots, CONTEXT // page)
    assert attention._room._whole.numel() == 2 * 4 * (CONTEXT // page)
    for rows in (4, 2, 4):
        union = make_union(STEPS["decode"][:2], page, 2, rows=rows)
        _, expected = attend(attention, union, 2, dtype)
        attention.forward_metadata = made[rows]
        attention.fill_joint_metadata(made[rows], union.batch, union.slots)
        filled, attention.init_ragged_metadata = attention.init_ragged_metadata, lambda *_: None
        _, found = attend(attention, union, 2, dtype)
        attention.init_ragged_metadata = filled
        assert torch.equal(found, expected)


def addresses(metadata):
    """Where a kernel reads it."""
    return [value.data_ptr() for value in vars(metadata).values() if torch.is_tensor(value)]


def test_a_union_is_filled_up_in_the_padding_slot(kind):
    _, _, page = KINDS[kind]
    union = make_union([[(37, 1)], []], page, 2, rows=3)
    assert union.tokens == [3, 3] and union.batch.batch_size == 6
    assert union.batch.seq_lens.tolist() == [37, 1, 1, 1, 1, 1]
    assert union.batch.out_cache_loc[1:].tolist() == [0] * 5
    assert [slots.tolist() for slots in union.slots[1:]] == [[0]] * 5
