"""A step of a worker alone, on a GPU in name: where upstream reads from it, ours does, and nowhere
else."""

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.layers.sampler import Sampler
from sglang.srt.managers import utils
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

from tests.adapters.device_reads import Reads
from tests.adapters.model import test_on_a_device as on_a_device
from tests.adapters.model.joint_model import MODEL, VOCABULARY
from tools.gpu_calls import UPSTREAM_READS

mode = on_a_device.mode
ROWS = {
    "decode": [(9, 1), (5, 1)],
    "mixed": [(9, 1), (12, 8)],
    "prefill": [(9, 9), (8, 4)],
}


def stock():
    with torch.device("cuda"):
        return LlamaForCausalLM(MODEL)


def ours():
    return on_a_device.make_executor().model


def step(model, rows, greedy):
    """What upstream's worker does with a batch that it has; the sampled ids on the host."""
    batch = on_a_device.own_batch(rows, extends=any(new > 1 for _, new in rows))
    with forward_context(ForwardContext(attn_backend=on_a_device.Attention())):
        output = model.forward(batch.input_ids, batch.positions, batch)
    assert isinstance(output, LogitsProcessorOutput)
    sampling = SamplingBatchInfo(
        temperatures=torch.ones(len(rows), 1, device="cuda"),
        top_ps=torch.ones(len(rows), device="cuda"),
        top_ks=torch.full((len(rows),), 20, dtype=torch.int32, device="cuda"),
        min_ps=torch.zeros(len(rows), device="cuda"),
        is_all_greedy=greedy,
        is_any_greedy=greedy,
        need_top_p_sampling=False,
        need_top_k_sampling=False,
        need_min_p_sampling=False,
        vocab_size=VOCABULARY,
        device="cuda",
    )
    ids = Sampler()(output, sampling, True, [0] * len(rows), [None] * len(rows), batch.positions)
    result = utils.GenerationBatchResult(logits_output=output, next_token_ids=ids)
    result.copy_done = SimpleNamespace(record=lambda: None)
    result.copy_to_cpu(return_logprob=True)
    return result.next_token_ids


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_no_place_waits_that_does_not_in_stock(mode, rows, greedy):
    found = {}
    for make in (stock, ours):
        model, reads = make(), Reads()
        with torch.no_grad(), reads:
            assert step(model, rows, greedy).device.type == "cpu"
        found[make] = [place.split("/site-packages/")[-1] for place in reads.places]
    assert found[ours] == found[stock]
    assert set(found[ours]) == set(UPSTREAM_READS)
