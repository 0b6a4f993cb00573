"""The cases that were found once stay mended, and a fixed range of seeds is clean."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def world(*args):
    """Exit code and lines of a run; its last line is JSON unless it plays kept cases."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.world", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout.splitlines(), done.stderr[-2000:]


def test_the_kept_cases_are_clean():
    code, lines, errors = world("--kept")
    assert code == 0, "\n".join([*lines, errors])
    assert len(lines) >= 1


@pytest.mark.parametrize(
    ("workers", "seeds", "profiles"),
    [
        (2, "0:1", ()),
        (4, "0:1", ("busy", "share", "rules")),
    ],
    ids=["every profile", "four workers"],
)
def test_a_fixed_range_of_seeds_is_clean(workers, seeds, profiles):
    chosen = [word for name in profiles for word in ("--profile", name)]
    code, lines, errors = world("--seeds", seeds, "--workers", str(workers), *chosen)
    assert code == 0, "\n".join([*lines, errors])
    summary = json.loads(lines[-1])
    assert summary["violations"] == summary["broken"] == 0
    assert summary["transformations"] > 50 and summary["requests"] > 100


def test_the_same_seed_gives_the_same_history():
    runs = [world("--seeds", "3:4", "--profile", "share", "--jobs", "1") for _ in range(2)]
    (first, _), (again, _) = (lines for _, lines, _ in runs)
    assert first.rsplit(", ", 1)[1] == again.rsplit(", ", 1)[1]


def test_a_fault_is_found_and_told():
    code, lines, errors = world(
        "--mutant", "fault-8-twice", "--profile", "leases", "--seeds", "0:8", "--first",
        "--no-shrink",
    )  # fmt: skip
    assert code == 1, errors
    assert any("more is lent than is lacking" in line for line in lines)
    assert json.loads(lines[-1])["violations"] >= 1


def test_what_cannot_be_played_is_said():
    assert world("--profile", "none")[0] == 2
    assert world("--mutant", "none")[0] == 2
