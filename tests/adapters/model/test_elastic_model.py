"""What a model gets as soon as it is loaded."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from sglang.srt import runtime_context

from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.model import elastic_model as module
from amoeba_sglang.adapters.model.elastic_model import (
    ElasticModel,
    adopt_if_ours,
    blocks_of,
    make_coordinators,
)
from amoeba_sglang.config import AmoebaConfig, GpuChoice
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.planes.device.cpu import CpuDevice
from amoeba_sglang.planes.transport import GlooGroup, HostGroup
from amoeba_sglang.planes.transport.base import TransportError
from tests.adapters.model.joint_model import HIDDEN, LAYERS, make_context, make_model

CONFIG = AmoebaConfig(4, 2, (1, 2, 4), LAYERS, 3 * HIDDEN * 48, "/run", page_size_kib=4)


class Device(CpuDevice):
    """Notes the bytes of its pages whenever freed memory goes back."""

    def __init__(self):
        super().__init__()
        self.held = []

    def return_freed_memory(self):
        self.held.append(self.memory(4096).physical_bytes())


class Calls(list):
    """own: what was said of a GPU's communicators."""

    own = frozenset()


@pytest.fixture
def asked(monkeypatch):
    """What upstream is asked of groups; this worker is rank 5."""
    calls = Calls()

    def make_group(blocks, local_rank, backend, group_name, **own):
        calls.append((group_name, blocks, local_rank, backend))
        assert set(own) == {"use_pynccl", "use_custom_allreduce"}
        calls.own = set(own.values())
        return group_name

    world = SimpleNamespace(local_rank=5, rank_in_group=5, device_group="device")
    monkeypatch.setattr(module, "get_world_group", lambda: world)
    monkeypatch.setattr(module, "init_model_parallel_group", make_group)
    monkeypatch.setattr(dist, "get_backend", lambda group: f"backend of {group}")
    return calls


def fresh_model():
    with runtime_context.use_context(make_context()):
        return make_model()


def test_groups_of_every_degree_are_upstream_s(asked):
    model = fresh_model()
    ElasticModel.adopt(model, CONFIG, CpuDevice())
    pairs, fours = [[i, i + 1] for i in (0, 2, 4, 6)], [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (blocks_of(CONFIG, 2), blocks_of(CONFIG, 4)) == (pairs, fours)
    assert asked == [
        ("amoeba_degree_2", pairs, 5, "backend of device"),
        ("amoeba_degree_4", fours, 5, "backend of device"),
    ]
    assert model.elastic.coordinators == {2: "amoeba_degree_2", 4: "amoeba_degree_4"}


@pytest.mark.parametrize(("shared", "own"), [(True, False), (False, None)])
def test_workers_on_one_gpu_have_groups_without_a_communicator_of_gpus(asked, shared, own):
    """None lets upstream choose."""
    config = replace(CONFIG, gpu=GpuChoice("sm90", "fa3", shared))
    warmed = []
    device = Device()
    device.warm_up = warmed.append
    make_coordinators(config, DegreeChain((1, 2, 4)), device)
    assert asked.own == {own}
    # Before the KV is sized, which counts what is free then.
    assert warmed == ([] if shared else ["amoeba_degree_2", "amoeba_degree_4"])


def test_a_group_that_cannot_start_says_whose_and_what_to_do(asked):
    def refuse(group):
        raise RuntimeError("NCCL error: unhandled system error\nmore lines")

    device = Device()
    device.warm_up = refuse
    line = "group of degree 2 of worker rank 5 cannot start: NCCL error: .* error; NCCL_DEBUG=INFO"
    with pytest.raises(TransportError, match=line):
        make_coordinators(CONFIG, DegreeChain((1, 2, 4)), device)


def test_weights_move_layer_by_layer_and_keep_their_values(asked):
    model, other = fresh_model(), fresh_model()
    device = Device()
    ElasticModel.adopt(model, CONFIG, device)
    elastic = model.elastic
    assert [layer.index for layer in elastic.layers] == [1] * LAYERS
    assert all(layer.degree == 1 for layer in elastic.layers)
    assert device.held == sorted(device.held) and len(set(device.held)) == LAYERS
    assert device.held[-1] == elastic.store.pages.total_pages * 4096
    x = torch.randn(3, HIDDEN)
    with runtime_context.use_context(make_context()):
        for mine, upstream in zip(model.model.layers, other.model.layers, strict=True):
            torch.testing.assert_close(mine.mlp(x), upstream.mlp(x))


def test_pages_of_weights_are_those_of_the_kv(asked):
    device = CpuDevice()
    model = fresh_model()
    ElasticModel.adopt(model, CONFIG, device)
    assert device.memory(4096).physical_bytes() == model.elastic.store.pages.total_pages * 4096


@pytest.mark.parametrize("config", [None, CONFIG])
def test_only_an_elastic_server_s_model_is_taken(asked, monkeypatch, config):
    given = {} if config is None else {"_amoeba": config, "_one_world": True}
    server_args = SimpleNamespace(device="cpu", **given)
    monkeypatch.setattr(module, "get_server_args", lambda: server_args)
    model = fresh_model()
    adopt_if_ours(model)
    assert hasattr(model, "elastic") == (config is not None)


def test_upstream_s_groups_use_shared_memory_if_the_workers_do():
    shared, other = object.__new__(HostGroup), object.__new__(GlooGroup)
    coordinators = {2: SimpleNamespace(host_communicator=None)}
    assert CpuBackend().collectives(coordinators, {2: other}) == {2: other}
    assert coordinators[2].host_communicator is None
    CpuBackend().collectives(coordinators, {2: shared})
    assert coordinators[2].host_communicator is shared
