"""A group over torch.distributed, of one rank in this process; see test_groups.py for several."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from amoeba_sglang.planes.transport import GlooGroup, PeerLostError


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    yield GlooGroup(dist.group.WORLD, 5.0)
    dist.destroy_process_group()


def test_alone_every_result_is_its_input_and_no_view_of_it(group):
    x = torch.arange(6.0).view(3, 2)
    assert group.all_reduce(x) is x
    for gathered in (group.all_gather(x), group.all_gather_rows(x, [3])):
        assert torch.equal(gathered, x) and gathered.data_ptr() != x.data_ptr()
    record = np.array([4, -5])
    [received] = group.exchange(record)
    record[:] = 0
    assert received.tolist() == [4, -5]
    group.barrier()
    group.close()


def test_nothing_is_sent_of_nothing(group):
    empty = torch.zeros(0, 3)
    assert group.all_reduce(empty) is empty
    assert group.all_gather_rows(empty, [0]).shape == (0, 3)
    assert group.exchange(np.zeros(0, dtype=np.int64))[0].shape == (0,)


def test_a_sum_lands_in_a_tensor_that_is_not_contiguous(group):
    whole = torch.arange(6.0).view(2, 3)
    x = whole.t()
    assert group.all_reduce(x) is x and whole.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_rows_that_are_not_as_announced_are_a_bug(group):
    with pytest.raises(AssertionError):
        group.all_gather_rows(torch.zeros(2, 3), [3])
    with pytest.raises(AssertionError):
        group.exchange(np.zeros(2))


@pytest.mark.parametrize(("phase", "place"), [("", "barrier"), ("a step", "barrier of a step")])
def test_a_wait_that_fails_may_have_lost_any_of_the_others(group, monkeypatch, phase, place):
    class Work:
        def wait(self, timeout):
            assert timeout.total_seconds() == 5.0
            raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "barrier", lambda **options: Work())
    group._peers, group.phase = [1, 2], phase
    with pytest.raises(PeerLostError, match=rf"during {place};") as lost:
        group.barrier()
    assert lost.value.ranks == (1, 2) and "Connection closed" in str(lost.value)
