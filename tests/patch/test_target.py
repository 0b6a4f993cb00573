from collections.abc import Callable
from pathlib import Path

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.target import find_target
from tests.patch.trees import PRISTINE, git, write_tree


def test_site_packages_and_package_directory_are_the_same_target(site: Path) -> None:
    target = find_target(site)
    assert target == find_target(site / "sglang")
    assert (target.root, target.version) == (site, "0.5.23")
    assert "reinstall it" in target.remedy


def test_checkout_takes_its_version_from_the_tag(checkout: Path) -> None:
    git(checkout, "commit", "-q", "--allow-empty", "-m", "a patch by git am")
    for place in (checkout, checkout / "python", checkout / "python/sglang"):
        target = find_target(place)
        assert (target.root, target.version) == (checkout / "python", "0.5.23")
        assert "git diff" in target.remedy


def test_checkout_without_its_own_tags_has_no_version(checkout: Path) -> None:
    # The tag of a repository around it says nothing about it.
    inner = checkout / "inner"
    write_tree(inner / "python", PRISTINE)
    assert find_target(inner).version is None


def test_wrong_versions_name_both(make_site: Callable[..., Path], checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"is version 0\.5\.22, but the patches are for 0\.5\.23"):
        find_target(make_site(version="0.5.22"))
    git(checkout, "commit", "-q", "--allow-empty", "-m", "next")
    git(checkout, "tag", "v0.5.24")
    with pytest.raises(ConfigError, match=r"is version 0\.5\.24, but the patches are for 0\.5\.23"):
        find_target(checkout)


def test_local_build_of_the_right_version_is_right(make_site: Callable[..., Path]) -> None:
    assert find_target(make_site(version="0.5.23+cpu")).version == "0.5.23"


def test_two_distributions_and_no_sglang_are_refused(site: Path, tmp_path: Path) -> None:
    (site / "sglang-0.5.22.dist-info").mkdir()
    with pytest.raises(ConfigError, match="has 2 sglang"):
        find_target(site)
    with pytest.raises(ConfigError, match="is neither a site-packages with sglang"):
        find_target(tmp_path / "nowhere")
