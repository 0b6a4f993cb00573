"""The patches that this repository carries: their form, and that they fit their sglang."""

import ast
import base64
import shutil
from pathlib import Path

from amoeba_sglang.patch.change import apply_series, revert_series
from amoeba_sglang.patch.series import MANIFEST, UPSTREAM_PREFIX, UPSTREAM_VERSION, Series
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.conftest import DIRECTORY
from tests.patch.trees import git
from tools.patch_manifest import make_manifest

MOST_CHANGED_LINES = 600


def test_manifest_is_that_of_the_patches(pristine: Path) -> None:
    again = "run python -m tools.patch_manifest on a pristine sglang"
    made = make_manifest(DIRECTORY, find_target(pristine))
    assert (DIRECTORY / MANIFEST).read_text() == made, again


def test_manifest_calls_pristine_what_the_wheel_had(real: Series, pristine: Path) -> None:
    record = (next(pristine.glob("sglang-*.dist-info")) / "RECORD").read_text()
    rows = dict(line.split(",")[:2] for line in record.splitlines())
    for path, (before, _) in real.hashes.items():
        recorded = rows.get(path.removeprefix("python/"))
        digest = recorded and base64.urlsafe_b64decode(recorded.removeprefix("sha256=") + "=").hex()
        assert digest == before, path


def test_every_patch_says_why_and_until_when(real: Series) -> None:
    for path, patch in zip(real.paths, real.patches, strict=True):
        lines = path.read_text().splitlines()
        header = lines[: next(i for i, line in enumerate(lines) if line.startswith("diff --git"))]
        for field in ("From: ", "Date: ", "Subject: ", "Why:", "Removal:"):
            assert any(line.startswith(field) for line in header), (patch.name, field)
        diffs = [line for line in lines if line.startswith("diff --git")]
        # Nothing else, no renames and no modes.
        assert diffs == [f"diff --git a/{file} b/{file}" for file in patch.files], patch.name
        assert all(file.startswith(UPSTREAM_PREFIX) for file in patch.files), patch.name
        assert not any(line.startswith(("old mode", "GIT binary")) for line in lines), patch.name


def test_delta_stays_small(real: Series) -> None:
    assert sum(patch.added + patch.removed for patch in real.patches) < MOST_CHANGED_LINES


def test_series_fits_the_installed_sglang_and_comes_off(
    real: Series, pristine: Path, tmp_path: Path
) -> None:
    target = find_target(Path(shutil.copytree(pristine, tmp_path / "site-packages")))
    before = {path: target.read(path) for path in real.hashes}
    assert apply_series(real, target) == len(real.hashes)
    for path in real.hashes:
        if path.endswith(".py"):
            ast.parse(target.read(path) or b"", path)
    revert_series(real, target)
    assert {path: target.read(path) for path in real.hashes} == before


def test_git_am_makes_the_same_in_a_checkout(real: Series, pristine: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(pristine / "sglang", checkout / "python" / "sglang")
    git(tmp_path, "init", "-q", checkout)
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "upstream")
    git(checkout, "tag", f"v{UPSTREAM_VERSION}")
    git(checkout, "am", "-q", *real.paths)
    assert read_state(real, find_target(checkout)).overall == "patched"
