"""Workers that share a GPU: without NCCL, and through the host."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sglang.srt import runtime_context
from sglang.srt.distributed.parallel_state import GroupCoordinator

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.cuda.platform import CudaPlatform
from amoeba_sglang.config import AmoebaConfig, GpuChoice
from amoeba_sglang.errors import ConfigError

CONFIG = AmoebaConfig(2, 1, (1, 2), 2, 64, "/run")
FA3 = GpuChoice("sm90", "fa3")
SHARED = GpuChoice("sm90", "fa3", shared=True)


def test_workers_that_share_a_gpu_need_no_nccl_and_record_nothing():
    backend = choose_backend("cuda", gpu=SHARED)
    assert not backend.joint_graphs and choose_backend("cuda", gpu=FA3).joint_graphs
    arguments = SimpleNamespace(dtype="auto", page_size=1, max_total_tokens=None)
    with pytest.raises(ConfigError, match="--amoeba-share-gpu: .* say --max-total-tokens"):
        backend.adjust(arguments)
    group = SimpleNamespace(rank=1, all_reduce=lambda x: x.mul_(3))
    coordinators = {2: SimpleNamespace(hpu_communicator=None)}
    found = backend.collectives(coordinators, {2: group})
    # What upstream's group does with a tensor of a GPU.
    coordinator = coordinators[2].hpu_communicator
    assert coordinator is found[2] and not coordinator.disabled and found[2].rank == 1
    x = torch.ones(2)
    assert coordinator.all_reduce(x) is x and x.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ({"_amoeba": replace(CONFIG, gpu=SHARED)}, "gloo"),
        ({"_amoeba": replace(CONFIG, gpu=FA3)}, "nccl"),
        ({}, "nccl"),
    ],
)
def test_the_world_of_workers_on_one_gpu_is_gloo_s(given, backend):
    context = runtime_context.RuntimeContext(runtime_context.ParallelContext())
    with runtime_context.use_context(context), context.override_server_args(**given):
        assert CudaPlatform().get_torch_distributed_backend_str() == backend


def test_upstream_s_group_asks_the_communicator_that_shared_workers_have():
    """Before it asks any of its own for a GPU, in a sum and in a gathering."""
    for method in (GroupCoordinator.all_reduce, GroupCoordinator.all_gather):
        text = inspect.getsource(method)
        asked = text.index("self.hpu_communicator")
        assert asked < text.index("all_gather_into_tensor" if "gather" in text else "ca_comm")
