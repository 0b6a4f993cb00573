"""Fixtures: a series for a small upstream, a checkout of it and an installed copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import amoeba_sglang
from amoeba_sglang.patch.change import revert_series
from amoeba_sglang.patch.series import MANIFEST, UPSTREAM_VERSION, Series, load_series
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.trees import PRISTINE, STEPS, git, write_distribution, write_tree
from tools.patch_manifest import make_manifest

DIRECTORY = Path(amoeba_sglang.__file__).parent.parent / "patches" / f"sglang-{UPSTREAM_VERSION}"


@pytest.fixture(scope="session")
def _upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    checkout = tmp_path_factory.mktemp("upstream") / "sglang-checkout"
    write_tree(checkout / "python", PRISTINE)
    git(checkout.parent, "init", "-q", checkout)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "upstream")
    git(checkout, "tag", f"v{UPSTREAM_VERSION}")
    for number, step in enumerate(STEPS, 1):
        write_tree(checkout / "python", step)
        git(checkout, "add", "-A")
        title = f"Seam {number}: a title that is so long that git folds the line"
        git(checkout, "commit", "-qm", f"{title} {title}")
    directory = tmp_path_factory.mktemp("patches")
    git(checkout, "format-patch", "--no-renames", "-o", directory, f"v{UPSTREAM_VERSION}")
    git(checkout, "reset", "-q", "--hard", f"v{UPSTREAM_VERSION}")
    (directory / MANIFEST).write_text(make_manifest(directory, find_target(checkout)))
    return checkout, directory


@pytest.fixture
def checkout(_upstream: tuple[Path, Path], tmp_path: Path) -> Path:
    """An upstream checkout at the tag."""
    return Path(shutil.copytree(_upstream[0], tmp_path / "checkout"))


@pytest.fixture
def directory(_upstream: tuple[Path, Path], tmp_path: Path) -> Path:
    """A directory with the series."""
    return Path(shutil.copytree(_upstream[1], tmp_path / "series"))


@pytest.fixture
def series(directory: Path) -> Series:
    return load_series(directory)


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Path]:
    """Make a site-packages with the pristine package."""

    def make(name: str = "site-packages", version: str = UPSTREAM_VERSION) -> Path:
        root = tmp_path / name
        write_tree(root, PRISTINE)
        write_distribution(root, version)
        return root

    return make


@pytest.fixture
def site(make_site: Callable[..., Path]) -> Path:
    return make_site()


@pytest.fixture(scope="session")
def real() -> Series:
    return load_series(DIRECTORY)


@pytest.fixture(scope="session")
def pristine(real: Series, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages with the touched files of the installed sglang, unpatched."""
    installed = find_target()
    site = tmp_path_factory.mktemp("real") / "site-packages"
    for path in ("python/sglang/__init__.py", *real.hashes):
        if installed.read(path) is not None:
            copy = site / path.removeprefix("python/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(installed.locate(path), copy)
    for info in installed.root.glob("sglang-*.dist-info"):
        shutil.copytree(info, site / info.name)
    if read_state(real, find_target(site)).overall != "unpatched":
        revert_series(real, find_target(site))
    return site
