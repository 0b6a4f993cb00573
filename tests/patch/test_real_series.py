"""The patches that this repository carries: their form, and that they fit their sglang."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from amoeba_sglang.patch.change import apply_series, revert_series
from amoeba_sglang.patch.series import UPSTREAM_PREFIX, UPSTREAM_VERSION, Series
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.conftest import DIRECTORY
from tests.patch.trees import git

MOST_CHANGED_LINES = 600


def test_series_and_directory_agree(real: Series) -> None:
    names = [patch.path.name for patch in real.patches]
    assert len(set(names)) == len(names)
    assert {path.name for path in DIRECTORY.iterdir()} == {"series", *names}


def test_every_patch_says_why_and_until_when(real: Series) -> None:
    for patch in real.patches:
        lines = patch.path.read_text().splitlines()
        header = lines[: next(i for i, line in enumerate(lines) if line.startswith("diff --git"))]
        for field in ("From: ", "Date: ", "Subject: ", "Why:", "Removal:"):
            assert any(line.startswith(field) for line in header), (patch.path.name, field)
        diffs = [line for line in lines if line.startswith("diff --git")]
        assert len(diffs) == len(patch.files)
        for line in diffs:
            assert line.startswith(f"diff --git a/{UPSTREAM_PREFIX}"), (patch.path.name, line)


def test_delta_stays_small(real: Series) -> None:
    assert sum(patch.added + patch.removed for patch in real.patches) < MOST_CHANGED_LINES


def test_series_fits_the_installed_sglang_and_comes_off(
    real: Series, pristine: Path, tmp_path: Path
) -> None:
    target = find_target(Path(shutil.copytree(pristine, tmp_path / "site-packages")))
    before = {path: target.read(path) for path in real.files}
    assert apply_series(real, target) == len(real.files)
    state = read_state(real, target)
    assert state.overall == "patched"
    for file in state.files:
        if file.patched is not None and file.path.endswith(".py"):
            ast.parse(file.patched, file.path)
    revert_series(real, target)
    assert {path: target.read(path) for path in real.files} == before


def test_git_am_makes_the_same_in_a_checkout(real: Series, pristine: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(pristine / "sglang", checkout / "python" / "sglang")
    git(tmp_path, "init", "-q", checkout)
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "upstream")
    git(checkout, "tag", f"v{UPSTREAM_VERSION}")
    git(checkout, "am", "-q", *(patch.path for patch in real.patches))
    state = read_state(real, find_target(checkout))
    assert state.overall == "patched"
    by_tool = read_state(real, find_target(pristine))
    assert {f.path: f.found for f in state.files} == {f.path: f.patched for f in by_tool.files}
