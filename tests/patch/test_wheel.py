"""The wheel carries the patches, and needs nothing but the SGLang that is there."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, directory: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source distribution, as an index would, by the installed build backend."""
    made = tmp_path_factory.mktemp("made")
    run("-m", "hatchling", "build", "-t", "sdist", "-d", made, directory=ROOT)
    (archive,) = made.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(made)
    source = made / archive.name.removesuffix(".tar.gz")
    run("-m", "hatchling", "build", "-t", "wheel", "-d", made, directory=source)
    return next(made.glob("*.whl"))


def test_wheel_holds_the_package_with_every_patch_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    patches = {f"amoeba_sglang/_{path.relative_to(ROOT)}" for path in ROOT.glob("patches/*/*")}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "amoeba_sglang").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == patches | package


def test_nothing_is_required_that_sglang_does_not_bring(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith("METADATA"))
        lines = content.read(name).decode().splitlines()
    required = {line for line in lines if line.startswith("Requires-Dist")}
    names = ("sglang==0.5.23", "regex", "httpx", "rich")
    assert required == {f"Requires-Dist: {name}" for name in names}
    # So an environment that has sglang needs no index to install it; to resolve takes pip long.
    output = run(
        *"-m pip install --no-index --dry-run --ignore-installed --no-deps".split(),
        wheel,
        directory=wheel.parent,
    )
    assert "Would install amoeba-sglang" in output


def test_patches_are_applied_from_the_wheel(wheel: Path, pristine: Path, tmp_path: Path) -> None:
    site = Path(shutil.copytree(pristine, tmp_path / "site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    outside = tmp_path / "elsewhere"
    outside.mkdir()

    def patch(command: str) -> str:
        return run(
            "-m", "amoeba_sglang.patch", command, directory=outside, PYTHONPATH=str(site)
        ).splitlines()[-1]

    assert patch("apply").startswith("applied")
    assert patch("check") == f"patched: sglang 0.5.23 in {site}"
    assert patch("revert").startswith("reverted")
