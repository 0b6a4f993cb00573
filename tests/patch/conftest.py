"""Fixtures: a series for a small upstream, a checkout of it and an installed copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from amoeba_sglang.patch.series import UPSTREAM_VERSION, Series, load_series
from tests.patch.trees import PRISTINE, STEPS, git, write_distribution, write_tree


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
    names = git(
        checkout, "format-patch", "--no-renames", "-o", directory, f"v{UPSTREAM_VERSION}"
    ).split()
    listed = [f"{Path(name).name}\n" for name in names]
    (directory / "series").write_text("# the seams\n" + "".join(listed) + "\n")
    git(checkout, "reset", "-q", "--hard", f"v{UPSTREAM_VERSION}")
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
