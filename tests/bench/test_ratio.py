import json
from pathlib import Path

import pytest

from amoeba_sglang.errors import ConfigError
from bench import ratio, results_file
from bench.base_checkout import BaseCheckout

THIS, BASE = "a" * 40, "b" * 40
PAIRS = 12 + 6


class World:
    """Servers that are only counted, and runs that take as long as the test says."""

    def __init__(self):
        self.up = []
        self.most_up = 0
        self.started = []
        self.runs = []
        self.seconds = {"this": 10.0, "base": 10.0}
        self.noise_beside_base = 0.0
        self.die_after = None


class StandIn:
    world: World

    def __init__(self, options, degree, base):
        self.side = "this" if base is None else "base"
        self.degree = degree

    def __enter__(self):
        self.world.started.append((self.side, self.degree))
        self.world.up.append(self)
        self.world.most_up = max(self.world.most_up, len(self.world.up))
        return self

    def __exit__(self, *exc):
        self.world.up.remove(self)


@pytest.fixture
def world(monkeypatch, tmp_path):
    world = World()
    monkeypatch.setattr(StandIn, "world", world, raising=False)

    def run(server, load, workers, seed):
        assert server in world.up
        if len(world.runs) == world.die_after:
            raise KeyboardInterrupt
        world.runs.append((server.side, world.up.index(server), load.input_len, seed))
        noise = world.noise_beside_base if world.up[-1].side == "base" else 0.001
        slower = 1 + noise * (seed % 4) if server is world.up[0] else 1
        return {"duration": world.seconds[server.side] * slower}

    monkeypatch.setattr(ratio, "CheckoutServer", StandIn)
    monkeypatch.setattr(ratio, "run_bench_serving", run)
    monkeypatch.setattr(ratio, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(ratio, "find_commit", lambda name: THIS if name == "HEAD" else BASE)
    monkeypatch.setattr(ratio, "require_committed", lambda: None)
    monkeypatch.setattr(ratio, "make_base", lambda commit: BaseCheckout(commit, Path("python")))
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    return world


def written(tmp_path):
    return json.loads((tmp_path / "ratio.json").read_text())["figures"]


def test_all_bars_hold_and_the_result_names_both_commits(world, tmp_path, capsys):
    assert ratio.main(["old"]) == 0
    figures = written(tmp_path)
    assert figures["base commit"] == BASE[:12]
    assert [row["verdict"] for row in figures["rows"]] == ["holds", "holds"]
    assert [len(row["seconds"]["base"]) for row in figures["rows"]] == [12, 12]
    assert [len(row["seconds"]["itself"]) for row in figures["rows"]] == [6, 6]
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[:3] for line in table] == [
        ["1", "prefill", "1.000"],
        ["1", "decode", "1.000"],
    ]


def test_a_slower_version_breaks_the_bar(world, tmp_path):
    world.seconds["this"] = 10.3
    assert ratio.main(["old"]) == 1
    assert ratio.main(["old", "--bar", "0.96"]) == 0


def test_noise_that_one_against_itself_does_not_have_decides_nothing(world, capsys):
    world.noise_beside_base = 0.05
    world.seconds["this"] = 9.0
    assert ratio.main(["old"]) == 2
    assert "undecided: " in capsys.readouterr().out.splitlines()[-1]


def test_who_goes_first_alternates_and_both_get_the_same_requests(world):
    ratio.main(["old"])
    measured = [run for run in world.runs if run[2] == 512][2:26]
    assert [side for side, *_ in measured] == ["this", "base", "base", "this"] * 6
    assert [seed for *_, seed in measured] == [n for n in range(12) for _ in (0, 1)]


def test_two_servers_at_a_time_one_of_the_base_then_a_second_of_this(world):
    ratio.main(["old", "--degree", "2"])
    both = ["this", "base", "this", "this"]
    assert world.started == [(s, 1) for s in both] + [(s, 2) for s in both]
    assert world.most_up == 2


def test_a_killed_run_goes_on(world, tmp_path):
    world.die_after = 4 + 2 * 9
    with pytest.raises(KeyboardInterrupt):
        ratio.main(["old"])
    assert not world.up
    world.die_after, world.runs = None, []
    assert ratio.main(["old"]) == 0
    # Both kinds are warmed up on both servers of each of the two parts.
    assert len(world.runs) == 2 * (2 * PAIRS - 9) + 4 + 4
    world.runs, world.started = [], []
    assert ratio.main(["old"]) == 0
    assert not world.runs and not world.started


def test_what_cannot_be_measured_is_one_line(world, monkeypatch, capsys):
    assert ratio.main(["old", "--degree", "3"]) == 3
    assert capsys.readouterr().err == "error: --degree 3: must divide --workers 2\n"

    def refuse():
        raise ConfigError("patches/series differs")

    monkeypatch.setattr(ratio, "require_committed", refuse)
    assert ratio.main(["old"]) == 3
    assert capsys.readouterr().err == "error: patches/series differs\n"
