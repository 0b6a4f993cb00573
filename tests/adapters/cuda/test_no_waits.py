"""What joint steps tell attention, from tensors that are on a GPU in name: the host waits for
nothing, and forgets nothing there that a kernel reads."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.adapters.cuda.attentions import CONTEXT, KINDS, make, make_union
from tests.adapters.device_reads import Reads

ROWS = {
    "decode": [[(37, 1), (16, 1)], [(5, 1)]],
    "mixed": [[(37, 1)], [(40, 24), (9, 1)]],
}


@pytest.fixture
def fake():
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


class Plans:
    """Wrappers of FlashInfer that only note with what they plan."""

    def __init__(self, *memory, **buffers):
        self.planned = []

    def begin_forward(self, *told, non_blocking, **types):
        assert non_blocking
        self.planned.append(told)


def on_gpu(union):
    """The same batch, its tensors of the device in a GPU's memory."""
    batch = union.batch
    for name in ("seq_lens", "out_cache_loc", "positions"):
        setattr(batch, name, torch.empty_like(getattr(batch, name), device="cuda"))
    return union


def without_kernels(kind, attention):
    """Upstream's own kernels cannot run on tensors that have no bytes."""
    if kind == "triton":
        attention.device = "cuda"
        attention.get_num_kv_splits = lambda *lengths: None
    if kind == "flashinfer":
        attention.decode_wrappers = [Plans()]
        attention.prefill_wrappers_paged = [Plans()]
    return attention


def of_kernels(metadata):
    """Its tensors, all of which kernels read."""
    return [value for value in vars(metadata).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("step", ROWS)
def test_a_step_is_told_without_a_wait(kind, step, fake):
    with torch.utils._python_dispatch._disable_current_modes():
        _, attention = make(kind, 2)
        union = make_union(ROWS[step], KINDS[kind][2], 2)
        without_kernels(kind, attention)
    on_gpu(union)
    with Reads() as reads:
        attention.init_ragged_metadata(union.batch, union.slots)
    assert reads.places == []
    require_places(kind, attention)


def require_places(kind, attention):
    """What the kernels read is in their memory, what plans read on the host."""
    if kind == "flashinfer":
        wrappers = [*attention.decode_wrappers, *attention.prefill_wrappers_paged]
        [told] = [told for wrapper in wrappers for told in wrapper.planned]
        tensors = [value for value in told if isinstance(value, torch.Tensor)]
        assert [value.device.type for value in tensors].count("cuda") == 1, "the slots"
        assert {t.device.type for t in tensors if t.dtype == torch.int32} >= {"cpu"}
        return
    tensors = of_kernels(attention.forward_metadata)
    assert tensors and {tensor.device.type for tensor in tensors} == {"cuda"}


def test_a_recorded_step_is_filled_without_a_wait(kind, fake, monkeypatch):
    with torch.utils._python_dispatch._disable_current_modes():
        _, attention = make(kind, 2)
        empty, union = (
            make_union(told, KINDS[kind][2], 2, rows=2) for told in ([[], []], ROWS["decode"])
        )
        without_kernels(kind, attention)
    if kind == "flashinfer":
        place = "sglang.srt.layers.attention.flashinfer_backend.BatchDecodeWithPagedKVCacheWrapper"
        monkeypatch.setattr(place, Plans)
    width = CONTEXT // KINDS[kind][2]
    metadata = attention.make_joint_metadata(on_gpu(empty).batch, empty.slots, width)
    with Reads() as reads:
        attention.fill_joint_metadata(metadata, on_gpu(union).batch, union.slots)
    assert reads.places == []
    if kind != "flashinfer":
        assert {tensor.device.type for tensor in of_kernels(metadata)} == {"cuda"}


def test_a_read_would_be_seen(fake):
    lengths = torch.zeros(3, device="cuda")
    with Reads() as reads:
        lengths.cpu()
    assert len(reads.places) == 1
