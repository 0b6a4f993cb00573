"""A process that stands for each of the GPUs in turn."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from sglang.srt import runtime_context

from tests.adapters.cuda.attentions import KINDS


@pytest.fixture(params=KINDS)
def kind(request):
    """One of KINDS, in a process that stands for its GPU."""
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    config = SimpleNamespace(
        page_size_kib=64, mlp_elements=1 << 16, emulation=None, gpu=KINDS[request.param][0]
    )
    with ExitStack() as stack:
        stack.enter_context(runtime_context.use_context(context))
        stack.enter_context(context.override_server_args(device="cpu", _amoeba=config))
        runtime_context.get_parallel().override_permanently(
            tp_rank=0,
            pp_rank=0,
            attn_tp_rank=0,
            attn_dp_rank=0,
            attn_tp_size=1,
            attn_dcp_size=1,
            attn_dcp_rank=0,
        )
        yield request.param
