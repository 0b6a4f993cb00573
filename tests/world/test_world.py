"""The cases that were found once stay mended, and a fixed range of seeds is clean."""

import json
import subprocess
import sys

import pytest

from tests.world.kept import all_cases


@pytest.fixture(scope="module")
def world():
    """Runs `python -m tests.world` with some arguments: exit code and lines."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.world.commands"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def run(*args):
            process.stdin.write(json.dumps(args) + "\n")
            process.stdin.flush()
            code, text = json.loads(process.stdout.readline())
            return code, text.splitlines()

        yield run
        process.stdin.close()


def test_the_kept_cases_are_clean(world):
    code, lines = world("--kept")
    assert code == 0, "\n".join(lines)
    assert len(lines) == len(all_cases()) > 0


@pytest.mark.parametrize("mutant", sorted({case.mutant for case in all_cases()} - {""}))
def test_the_kept_cases_of_a_fault_find_it(world, mutant):
    code, lines = world("--kept", "--mutant", mutant)
    assert code == 1, "\n".join(lines)
    kinds = {case.name: case.kind for case in all_cases() if case.mutant == mutant}
    assert len(lines) == len(kinds)
    for line in lines:
        name, kind, *_ = line.split(": ")
        assert kind == kinds[name], line


@pytest.mark.parametrize(
    ("workers", "profiles"),
    [(2, ()), (4, ("busy", "share", "rules")), (8, ("mixed",))],
    ids=["every profile", "four workers", "eight workers"],
)
def test_a_fixed_seed_is_clean(world, workers, profiles):
    chosen = [word for name in profiles for word in ("--profile", name)]
    code, lines = world("--seeds", "0:1", "--workers", str(workers), *chosen)
    assert code == 0, "\n".join(lines)
    summary = json.loads(lines[-1])
    assert summary["violations"] == summary["broken"] == 0
    assert summary["transformations"] > 20 and summary["requests"] > 50


def test_the_same_seed_gives_the_same_history(world):
    runs = [world("--seeds", "3:4", "--profile", "dense", "--jobs", "1") for _ in range(2)]
    first, again = (lines[0].rsplit(", ", 1)[1] for _, lines in runs)
    assert first == again


def test_a_fault_is_found_and_told(world):
    code, lines = world(
        "--mutant", "fault-8-twice", "--profile", "leases", "--seeds", "0:8", "--first",
        "--no-shrink",
    )  # fmt: skip
    assert code == 1
    assert any("more is lent than is lacking" in line for line in lines)
    assert json.loads(lines[-1])["violations"] >= 1


def test_what_cannot_be_played_is_said(world):
    assert world("--profile", "none")[0] == 2
    assert world("--mutant", "none")[0] == 2


def test_what_was_played_is_not_played_again(world, tmp_path):
    file = str(tmp_path / "results")
    runs = [
        world("--seeds", f"0:{last}", "--profile", "ends", "--resume", file) for last in (1, 2, 2)
    ]
    assert [len(lines) - 1 for _, lines in runs] == [1, 1, 0]
    assert json.loads(runs[2][1][-1]) == json.loads(runs[1][1][-1])
