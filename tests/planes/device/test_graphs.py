"""Recorded graphs of the REFERENCE device."""

import pytest
import torch

from amoeba_sglang.planes.reference.device import ReferenceDevice
from amoeba_sglang.planes.reference.driver import Misuse
from amoeba_sglang.planes.reference.graphs import RecordedGraph, whole

PAGE = 64 << 10


@pytest.fixture
def device():
    found = ReferenceDevice()
    found.streams.enter(found.streams.current_stream())
    yield found
    found.streams.recorder.__exit__(None, None, None)


def test_a_replay_computes_with_what_is_there_then(device):
    x, bias = torch.ones(3), torch.zeros(3)
    graph, out = device.capture(lambda: (x * 2 + bias).view(3, 1).relu())
    x.copy_(torch.tensor([1.0, -5.0, 7.0]))
    bias.fill_(1)
    before = RecordedGraph.replays
    graph.replay()
    assert out.flatten().tolist() == [3.0, 0.0, 15.0] and RecordedGraph.replays == before + 1
    x.fill_(0)
    graph.replay()
    assert out.flatten().tolist() == [1.0, 1.0, 1.0]


def test_what_is_written_in_place_is_written_again(device):
    x, pool = torch.ones(2), torch.zeros(4)
    places = torch.tensor([0, 2])

    def launch():
        pool[places] = x + 1
        pool.add_(1)

    graph, _ = device.capture(launch)
    pool.zero_()
    places.copy_(torch.tensor([1, 3]))
    graph.replay()
    assert pool.tolist() == [1.0, 3.0, 1.0, 3.0]


def test_an_input_that_is_gone_is_refused(device):
    kept = torch.ones(2)

    def record():
        passing = torch.ones(2)
        return device.capture(lambda: kept + passing)[0]

    with pytest.raises(Misuse, match=r"aten.add.Tensor of a graph reads a \(2,\) that is gone"):
        record().replay()


def test_memory_that_is_unmapped_is_refused_and_mapped_again_it_is_there(device):
    memory = device.make_memory(PAGE)
    where = memory.reserve(2 * PAGE)
    memory.map(where, 0, memory.create(2))
    where.tensor(PAGE, (PAGE,), torch.uint8).fill_(3)
    graph, out = device.capture(lambda: where.tensor(PAGE, (PAGE,), torch.uint8).sum())
    device.synchronize()
    memory.unmap(where, PAGE, 1)
    with pytest.raises(Misuse, match="touches unmapped memory"):
        graph.replay()
    memory.map(where, PAGE, [1])
    graph.replay()
    assert out == 3 * PAGE
    device.synchronize()


def test_the_host_cannot_read_while_it_records(device):
    x = torch.ones(2)
    with pytest.raises(Misuse, match="the host reads"):
        device.capture(lambda: (x + 1).sum().item())


def test_a_kernel_is_one_call_whatever_computes_it(device):
    lengths, x = torch.tensor([1, 2]), torch.arange(4.0)

    @whole
    def kernel(x, lengths):
        return torch.stack([x[:length].sum() for length in lengths.tolist()])

    graph, out = device.capture(lambda: kernel(x, lengths) * 1)
    lengths.copy_(torch.tensor([3, 4]))
    graph.replay()
    assert out.tolist() == [3.0, 6.0] and len(graph._nodes) == 2


def test_what_may_be_a_view_is_recorded_where_it_copies(device):
    """In inference mode `contiguous` is not taken apart into a copy."""
    x = torch.arange(6.0).view(2, 3)
    with torch.inference_mode():
        graph, out = device.capture(lambda: (x + 0).t().contiguous() + 1)
        x.mul_(2)
        graph.replay()
    assert out.flatten().tolist() == [1.0, 7.0, 3.0, 9.0, 5.0, 11.0]
