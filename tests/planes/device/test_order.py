"""The REFERENCE device's streams refuse what a GPU would race on."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from amoeba_sglang.planes.reference.device import ReferenceDevice
from amoeba_sglang.planes.reference.streams import Race

PAGE = 64 << 10


@pytest.fixture
def gpu():
    """A device with two mapped pages, and a thread that launches on its default stream."""
    device = ReferenceDevice()
    memory = device.make_memory(PAGE)
    where = memory.reserve(2 * PAGE)
    memory.map(where, 0, memory.create(2))
    pages = [where.tensor(at, (PAGE,), torch.uint8) for at in (0, PAGE)]
    streams = device.streams
    with device.streams.recorder:
        streams._current.seen = True
        yield SimpleNamespace(
            device=device, streams=streams, memory=memory, where=where, pages=pages
        )
        streams.synchronize()
    memory.close()


def test_only_memory_of_the_device_counts(gpu):
    torch.zeros(4).add_(1)
    gpu.pages[0][4:].view(torch.int32)
    assert not gpu.streams.kernels
    gpu.pages[0][4:].add_(1)
    assert gpu.streams.kernels == {"aten.add_.Tensor": 1}


def test_memory_of_a_running_kernel_stays_mapped(gpu):
    gpu.pages[0].sum()
    gpu.memory.unmap(gpu.where, PAGE, 1)
    with pytest.raises(Race, match=r"an unmap of .* while kernel 1, aten.sum.default, of another"):
        gpu.memory.unmap(gpu.where, 0, 1)
    gpu.device.driver.misuses.clear()
    gpu.device.wait()
    gpu.memory.unmap(gpu.where, 0, 1)


def test_a_stream_sees_what_another_wrote_when_it_has_waited(gpu):
    other = gpu.streams.Stream()
    gpu.pages[0].zero_()
    with gpu.streams.stream(other):
        gpu.pages[1].zero_()
        with pytest.raises(Race, match="aten.sum.default of .* aten.zero_.default, of another"):
            gpu.pages[0].sum()
        other.wait_stream(gpu.streams.current_stream())
        with pytest.raises(Race):
            gpu.pages[0].sum()
        other.wait_stream(gpu.streams._default)
        gpu.pages[0].sum()
    # Who reads is not disturbed by who reads.
    gpu.pages[0].sum()
    with pytest.raises(Race):
        gpu.pages[0].add_(1)


def test_an_event_is_of_what_was_launched_before_it(gpu):
    other, event = gpu.streams.Stream(), gpu.streams.Event()
    gpu.pages[0].zero_()
    event.record()
    gpu.pages[1].zero_()
    with gpu.streams.stream(other):
        other.wait_event(event)
        gpu.pages[0].sum()
        with pytest.raises(Race):
            gpu.pages[1].sum()
    event.synchronize()
    with pytest.raises(Race):
        gpu.memory.unmap(gpu.where, PAGE, 1)
    gpu.device.driver.misuses.clear()


def test_order_goes_through_a_third_stream(gpu):
    one, two = gpu.streams.Stream(), gpu.streams.Stream()
    gpu.pages[0].zero_()
    one.wait_stream(gpu.streams._default)
    two.wait_stream(one)
    with gpu.streams.stream(two):
        gpu.pages[0].add_(1)


def test_peers_hear_nothing_of_what_still_runs(gpu):
    told = []
    group = SimpleNamespace(
        rank=0, size=2, timeout_s=1.0, phase="", barrier=lambda: told.append("met"),
        exchange=lambda record: told.append(record),
    )  # fmt: skip
    watched = gpu.device.watch(group)
    watched.phase = "a move"
    assert group.phase == watched.phase == "a move"
    gpu.pages[0].zero_()
    for tell in (watched.barrier, lambda: watched.exchange("record")):
        with pytest.raises(Race, match="while kernel 1, aten.zero_.default, of its stream runs"):
            tell()
    gpu.device.wait()
    watched.barrier()
    watched.exchange("record")
    assert told == ["met", "record"]


def test_the_helper_launches_on_a_stream_of_its_own(gpu):
    def change():
        assert gpu.streams.current_stream() is not gpu.streams._default
        gpu.pages[1].zero_()

    with gpu.device.helper() as helper:
        helper.submit(change).result()
        with pytest.raises(Race):
            gpu.pages[1].sum()
        helper.submit(gpu.device.wait).result()
        gpu.pages[1].sum()
        gpu.pages[0].sum()
        with pytest.raises(Race, match="an unmap"):
            helper.submit(gpu.memory.unmap, gpu.where, 0, 1).result()
        gpu.device.driver.misuses.clear()


def test_a_wait_is_named_by_who_waits(gpu):
    gpu.device.synchronize()
    assert not gpu.streams.waited, "tests are not of the package"


def test_waits_are_left_out_by_name():
    code = (
        "from amoeba_sglang.planes.reference.streams import Streams; "
        "print(sorted(Streams()._omitted))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"AMOEBA_REFERENCE_OMIT": "one:Stream.synchronize,two:Stream.wait_event"},
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "['one:Stream.synchronize', 'two:Stream.wait_event']"
