"""What a campaign sums up, and goes on from."""

import json

from tests.world.results import Results
from tests.world.runner import Outcome


def outcome(seed, workers=2, kind="", **counts):
    return Outcome(seed, workers, kind, cpu=2.0, counts=counts)


def test_a_file_is_gone_on_from_by_workers_and_seed(tmp_path):
    file = tmp_path / "results"
    Results(file).add(outcome("busy/0"))
    Results(file).add(outcome("busy/0", workers=4))
    results = Results(file)
    assert results.has(2, "busy/0") and results.has(4, "busy/0")
    assert not results.has(8, "busy/0") and not results.has(2, "busy/1")


def test_results_of_another_package_or_mutant_do_not_count(tmp_path):
    file = tmp_path / "results"
    Results(file).add(outcome("busy/0"))
    assert not Results(file, "a-mutant").outcomes
    (key, fields) = json.loads(file.read_text())
    file.write_text(json.dumps([["another", key[1]], fields]) + "\n")
    assert not Results(file).outcomes


def test_what_is_broken_is_played_again(tmp_path):
    file = tmp_path / "results"
    results = Results(file)
    results.add(outcome("busy/0", kind="broken"))
    assert results.exit_code == 2
    assert Results(file).exit_code == 0


def test_sums_are_by_number_of_workers():
    results = Results(None)
    results.add(outcome("busy/0", **{"engine steps": 100, "merges done": 2, "splits done": 1}))
    results.add(outcome("busy/0", workers=4, **{"engine steps": 50, "Ask": 7}))
    results.add(outcome("busy/1", workers=4, kind="wrong KV"))
    summary = results.summary()
    assert (summary["seeds"], summary["transformations"], summary["requests"]) == (3, 3, 7)
    assert summary["kinds"] == {"wrong KV": 1} and results.exit_code == 1
    assert summary["workers"]["2"]["steps_per_cpu_second"] == 50.0
    assert summary["workers"]["4"]["seeds"] == 2
    assert summary["rare"]["merges done"] == 2
