"""What FlashAttention 3's REFERENCE takes and refuses."""

import pytest
import torch

from amoeba_sglang.planes.reference.calls import KernelRefusal, read_function
from amoeba_sglang.planes.reference.fa3_calls import Fa3Calls


def real_attend(
    q, k_cache, v_cache, *, cache_seqlens, page_table, cu_seqlens_q, max_seqlen_q, softmax_scale,
    causal, window_size=(-1, -1), softcap=0.0, scheduler_metadata=None, return_softmax_lse=False,
    k=None, v=None, qv=None, rotary_cos=None, sinks=None, k_descale=None, score_mod=None,
    out=None, ver=3,
):  # fmt: skip
    """Of the installed function the arguments that matter here."""


def real_plan(batch_size, num_heads, num_heads_k, headdim):
    """As above."""


CALLS = Fa3Calls(real_attend, real_plan)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def call(**changed):
    """A row of 3 tokens, 2 of them new, and one of 2; 4 heads of 8 over 2."""
    generator = torch.Generator().manual_seed(3)

    def some(*shape):
        return torch.randn(*shape, generator=generator).bfloat16()

    usual = {
        "q": some(3, 4, 8), "k_cache": some(6, 1, 2, 8), "v_cache": some(6, 1, 2, 8),
        "cache_seqlens": ints(3, 2), "page_table": torch.stack([ints(5, 1, 2), ints(3, 4, 0)]),
        "cu_seqlens_q": ints(0, 2, 3), "max_seqlen_q": 2, "softmax_scale": 0.5, "causal": True,
    }  # fmt: skip
    return CALLS.with_kvcache(**usual | changed), usual


def test_a_row_attends_over_its_own_pages_and_no_later_token():
    found, given = call()
    for row, (query, pages) in enumerate(((0, [5, 1]), (1, [5, 1, 2]), (2, [3, 4]))):
        keys, values = (given[name][pages, 0].float() for name in ("k_cache", "v_cache"))
        for head in range(4):
            scores = keys[:, head // 2] @ given["q"][query, head].float() * 0.5
            expected = scores.softmax(0) @ values[:, head // 2]
            torch.testing.assert_close(found[row, head].float(), expected, atol=0.02, rtol=0.02)


def test_a_plan_is_taken_for_the_heads_that_it_was_made_for():
    plan = CALLS.plan(batch_size=2, num_heads=4, num_heads_k=2, headdim=8)
    assert torch.equal(call(scheduler_metadata=plan)[0], call()[0])
    other = CALLS.plan(batch_size=2, num_heads=8, num_heads_k=4, headdim=8)
    with pytest.raises(KernelRefusal, match=r"planned for \[2, 8, 4, 8\], called with"):
        call(scheduler_metadata=other)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"nobody": 1}, "unexpected keyword argument 'nobody'"),
        ({"q": torch.zeros(3, 4, 8)}, "torch.float32"),
        ({"q": torch.zeros(3, 3, 8).bfloat16()}, "3 heads of 2 KV heads"),
        ({"cache_seqlens": torch.tensor([3, 2])}, "cache_seqlens is not of int32"),
        ({"cu_seqlens_q": ints(0, 2)}, "rows"),
        ({"max_seqlen_q": 1}, "max_seqlen_q 1"),
        ({"window_size": (4, 0)}, "window"),
        ({"causal": False}, "no mask"),
    ],
)
def test_what_the_kernel_has_not_is_refused(changed, line):
    with pytest.raises(KernelRefusal, match=line):
        call(**changed)


@pytest.mark.parametrize("dim", [12, 264])
def test_heads_of_other_sizes_are_refused(dim):
    like = {"q": (3, 4, dim), "k_cache": (6, 1, 2, dim), "v_cache": (6, 1, 2, dim)}
    with pytest.raises(KernelRefusal, match=f"heads of {dim}"):
        call(**{name: torch.zeros(*shape).bfloat16() for name, shape in like.items()})


def test_a_signature_is_read_from_a_file_that_cannot_be_imported(tmp_path):
    file = tmp_path / "library.py"
    file.write_text(
        "import a_gpu\n\n@a_gpu.kernel\ndef launch(x, scale: Optional[float] = None, *, ver=3):\n"
        "    return a_gpu.run(x)\n"
    )
    real = read_function(file, "launch")
    assert real(1, scale=2.0, ver=4) is None
    with pytest.raises(TypeError):
        real(1, 2.0, 3)
