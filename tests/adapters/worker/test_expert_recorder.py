from types import SimpleNamespace

import numpy as np

from amoeba_sglang.adapters.worker.expert_recorder import ExpertRecorder
from amoeba_sglang.control.layout.expert_order import ExpertLoads


class Shards(SimpleNamespace):
    """Those of a layer, in the order of the checkpoint."""

    def __init__(self, *chosen):
        super().__init__(chosen=np.array(chosen))

    @property
    def chosen_by_number(self):
        return self.chosen.tolist()


def read(file):
    return ExpertLoads.from_json(file.read_text()).layers


def test_it_writes_once_a_minute_if_any_was_chosen(tmp_path):
    file, layers = tmp_path / "loads.json", [Shards(0, 0), Shards(0, 0)]
    recorder = ExpertRecorder(str(file), layers, None, now=100.0)
    recorder.tick(170.0)
    assert not file.exists()
    layers[0].chosen += [3, 1]
    recorder.tick(200.0)
    assert not file.exists()
    recorder.tick(231.0)
    assert read(file) == ((3, 1), (0, 0))
    layers[1].chosen += [0, 2]
    recorder.tick(300.0)
    assert read(file) == ((3, 1), (0, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["loads.json"]


def test_what_was_before_counts_half(tmp_path):
    file = tmp_path / "loads.json"
    recorder = ExpertRecorder(str(file), [Shards(1, 0)], ExpertLoads(((5, 8),)), now=0.0)
    recorder.tick(60.0)
    assert read(file) == ((3, 4),)


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    recorder = ExpertRecorder(str(tmp_path / "no" / "file"), [Shards(1)], None, now=0.0)
    recorder.tick(60.0)
    assert "--amoeba-expert-loads" in caplog.text and "cannot be written" in caplog.text


def test_only_the_first_worker_of_a_server_with_a_file_has_one():
    with_file = SimpleNamespace(expert_file="f", expert_loads=None)
    executor = SimpleNamespace(layers=[SimpleNamespace(feed_forward=[object()])])
    assert ExpertRecorder.of_worker(with_file, 0, executor, 0.0) is not None
    assert ExpertRecorder.of_worker(with_file, 1, executor, 0.0) is None
    without = SimpleNamespace(expert_file=None, expert_loads=None)
    assert ExpertRecorder.of_worker(without, 0, executor, 0.0) is None
