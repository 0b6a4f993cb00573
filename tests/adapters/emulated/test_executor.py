from types import SimpleNamespace

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from amoeba_sglang.adapters.emulated.executor import EmulatedExecutor, EmulatedLayer, work_of
from amoeba_sglang.adapters.emulated.sampler import EmulatedSampler
from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.device.step_work import StepWork
from amoeba_sglang.control.worker.step_record import Row, StepRecord

EMULATION = Emulation(load_device("h100-96-32b-tp-loss"), 10.0)
LAYERS, VOCABULARY = 8, 5000


class Timeline:
    free_at = 0.0

    def __init__(self):
        self.launched, self.waited = [], []

    def launch(self, seconds):
        self.launched.append(seconds)
        self.free_at += seconds

    def wait(self, until):
        self.waited.append(until)

    def rest(self):
        pass


def make(index=0, degree=1):
    layers = [EmulatedLayer() for _ in range(LAYERS)]
    for layer in layers:
        layer.switch(degree)
    return EmulatedExecutor(EMULATION, layers, index, vocabulary=VOCABULARY, timeline=Timeline())


def sampling(**changes):
    return SimpleNamespace(
        **{
            "logit_bias": None,
            "acc_additive_penalties": None,
            "acc_scaling_penalties": None,
            "has_custom_logit_processor": False,
            "penalizer_orchestrator": SimpleNamespace(is_required=False),
            **changes,
        }
    )


def batch(lengths, new=None, **changes):
    return SimpleNamespace(
        batch_size=len(lengths),
        seq_lens_cpu=torch.tensor(lengths),
        forward_mode=ForwardMode.DECODE if new is None else ForwardMode.EXTEND,
        extend_seq_lens_cpu=new,
        sampling_info=sampling(**changes),
    )


def record(*rows):
    none = Row(0, 0, 0, 0, torch.empty(0, dtype=torch.int64).numpy())
    made = [Row(none.row, length, new, 0, none.slots) for length, new in rows]
    return StepRecord(epoch=1, step=0, first_rank=0, boundary=-1, has_work=True, rows=tuple(made))


def test_rows_are_counted_by_what_they_cost():
    assert work_of(batch([10, 500])) == StepWork(0, 0, 2, 510)
    mixed = work_of(batch([300, 1000, 77], [300, 400, 1]))
    assert mixed == StepWork(700, 300 * 150 + 400 * 800, 1, 77)


def test_a_worker_alone_takes_the_time_of_its_own_rows():
    executor = make()
    out = executor.forward(batch([100, 200, 300]))
    assert executor.timeline.launched == [EMULATION.step_seconds(1, StepWork(0, 0, 3, 600))]
    assert out.next_token_logits.shape == (3, VOCABULARY)


def test_a_joint_step_takes_the_time_of_the_union_on_every_worker():
    records = [record((100, 1)), record(), record((900, 512), (50, 1)), record()]
    union = StepWork(512, 512 * 644, 2, 150)
    for index in range(4):
        executor = make(index, degree=4)
        executor.expect(records, None)
        executor.follow()
        assert executor.timeline.launched == [pytest.approx(EMULATION.step_seconds(4, union))]


def test_a_follower_waits_for_the_step_before():
    executor = make(1, degree=2)
    for _ in range(2):
        executor.expect([record((100, 1)), record()], None)
        executor.follow()
    assert executor.timeline.waited == [0.0, executor.timeline.launched[0]]


def test_between_two_degrees_each_takes_its_share_of_the_layers():
    records = [record((100, 1)), record((300, 1)), record(), record()]
    executor = make(0, degree=1)
    for layer in executor.layers[6:]:
        layer.switch(4)

    class Move:
        layers = range(4, 6)
        calls = []

        def begin(self):
            self.calls.append("begin")

        def settle(self):
            self.calls.append(("settle", len(executor.timeline.launched)))
            for number in self.layers:
                executor.layers[number].switch(4)

    move = Move()
    executor.expect(records, move)
    executor.follow()
    alone = EMULATION.step_seconds(1, StepWork(0, 0, 1, 100))
    union = EMULATION.step_seconds(4, StepWork(0, 0, 2, 400))
    assert executor.timeline.launched == [pytest.approx(alone / 2), pytest.approx(union / 2)]
    assert move.calls == ["begin", ("settle", 1)]


def test_a_worker_whose_small_instance_has_no_rows_takes_no_time_for_it():
    executor = make(3, degree=1)
    executor.expect([record((100, 1)), record(), record(), record()], None)
    executor.follow()
    assert executor.timeline.launched == [0.0]


def test_logits_can_be_written_to_where_upstream_does():
    plain = make().forward(batch([1, 2])).next_token_logits
    assert plain.untyped_storage().nbytes() == plain.element_size()
    biased = make().forward(batch([1, 2], logit_bias=torch.ones(2, VOCABULARY)))
    biased.next_token_logits.add_(1)
    assert float(biased.next_token_logits.sum()) == 2 * VOCABULARY


def test_the_token_of_a_position_is_always_the_same():
    sample = EmulatedSampler.forward
    first = sample(None, None, None, False, [], [], torch.tensor([5, 6, 700]))
    again = sample(None, None, None, False, [], [], torch.tensor([700, 5]))
    assert again.tolist() == [first.tolist()[2], first.tolist()[0]]
    assert first.dtype == torch.int64 and 1000 <= int(first.min()) and int(first.max()) < 1064
