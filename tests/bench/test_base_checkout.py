import shutil
import subprocess

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.series import load_series
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import find_target
from bench import base_checkout
from bench.base_checkout import copy_pristine, find_commit, make_base, require_committed
from tests.patch.trees import fingerprint, git, write_tree

# What the command of each version does to a target.
PATCH = """import pathlib, sys
site = pathlib.Path(sys.argv[3])
(site / "sglang" / "seam.py").write_text("version = {version}\\n")
"""
PROJECT = """[project]
name = "amoeba-sglang"
version = "{version}"
[project.entry-points."sglang.srt.platforms"]
amoeba_cpu = "amoeba_sglang.of_{version}:activate"
"""


def version(number):
    return {
        "amoeba_sglang/__init__.py": f"version = {number}\n",
        "amoeba_sglang/patch.py": PATCH.format(version=number),
        "pyproject.toml": PROJECT.format(version=number),
        ".gitignore": ".venv/\n__pycache__/\n",
    }


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits, the tag `old` being the first one; SGLang is one empty file."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    for number in (1, 2):
        write_tree(root, version(number))
        git(root, "add", "-A")
        git(root, "commit", "-qm", f"version {number}")
        if number == 1:
            git(root, "tag", "old")

    def copy(site):
        write_tree(site, {"sglang/__init__.py": ""})

    monkeypatch.setattr(base_checkout, "copy_pristine", copy)
    monkeypatch.setattr(base_checkout, "require_patched", lambda: None)
    return root


def make_old(repository, tmp_path):
    return make_base(find_commit("old", repository), tmp_path / "cache", repository)


def test_base_runs_its_own_code_on_its_own_patches(repository, tmp_path):
    base = make_old(repository, tmp_path)
    program = "import amoeba_sglang, sglang.seam; print(amoeba_sglang.version, sglang.seam.version)"
    # Not even a current directory with another version in it comes first.
    done = subprocess.run(
        [base.python, "-c", program], cwd=repository, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_sglang_finds_the_platform_of_the_base(repository, tmp_path):
    """It found the one of the commit that is checked out, whose modules the base does not have."""
    base = make_old(repository, tmp_path)
    program = (
        "from importlib.metadata import entry_points; "
        "print([one.value for one in entry_points(group='sglang.srt.platforms')])"
    )
    done = subprocess.run([base.python, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "['amoeba_sglang.of_1:activate']", done.stderr


def test_base_is_made_once(repository, tmp_path, monkeypatch):
    first = make_old(repository, tmp_path)
    monkeypatch.setattr(base_checkout, "copy_pristine", None)
    assert make_old(repository, tmp_path) == first


def test_base_that_was_half_made_is_made_again(repository, tmp_path):
    base = make_old(repository, tmp_path)
    environment = base.python.parents[1]
    (environment / "site").rename(environment / "site.partial")
    write_tree(environment / "site.partial", {"sglang/stray.py": ""})
    make_old(repository, tmp_path)
    assert (environment / "site" / "sglang" / "seam.py").exists()
    assert not (environment / "site" / "sglang" / "stray.py").exists()
    # A worktree that is gone, too.
    shutil.rmtree(environment.parent)
    make_old(repository, tmp_path)
    assert (environment / "site").exists()


def test_patches_that_do_not_fit_are_named(repository, tmp_path):
    write_tree(repository, {"amoeba_sglang/patch.py": "import sys; sys.exit('0001 does not fit')"})
    git(repository, "commit", "-qam", "broken")
    with pytest.raises(ConfigError, match="pristine sglang: 0001 does not fit"):
        make_base(find_commit("HEAD", repository), tmp_path / "cache", repository)


def test_base_with_changes_is_refused(repository, tmp_path):
    base = make_old(repository, tmp_path)
    write_tree(base.python.parents[2], {"amoeba_sglang/__init__.py": "version = 3\n"})
    with pytest.raises(ConfigError, match="amoeba_sglang/__init__.py differs"):
        make_old(repository, tmp_path)


@pytest.mark.parametrize("revision", ["nowhere", "--all", "old:amoeba_sglang"])
def test_unknown_commit_is_named(repository, revision):
    with pytest.raises(ConfigError, match=f"^BASE {revision}: no such commit in .*$"):
        find_commit(revision, repository)


def test_no_repository_and_no_git_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ConfigError, match="^git rev-parse: .*not a git repository"):
        find_commit("HEAD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="git is not on PATH"):
        find_commit("HEAD", tmp_path)


@pytest.mark.parametrize(
    "file", ["amoeba_sglang/patch.py", "patches/new", "bench/new.py", "tests/serving/new.py"]
)
def test_changes_that_no_commit_names_are_refused(repository, file):
    require_committed(repository)
    write_tree(repository, {file: "changed\n", "bench/results/ratio.json": "{}\n"})
    git(repository, "add", "-N", ".")
    with pytest.raises(ConfigError, match=f"^{file} differs from the commit"):
        require_committed(repository)


def test_results_and_what_is_not_measured_may_differ(repository):
    write_tree(repository, {"bench/results/ratio.json": "{}\n", "README.md": "changed\n"})
    git(repository, "add", "-N", ".")
    require_committed(repository)


def test_copy_of_the_installed_sglang_is_pristine(tmp_path):
    """The copied package holds only what the patches touch: the whole takes seconds."""
    installed, series = find_target(), load_series()
    site, copy = tmp_path / "site", tmp_path / "copy"
    for path in ("python/sglang/__init__.py", *series.hashes):
        if (content := installed.read(path)) is not None:
            write_tree(site, {path.removeprefix("python/"): content.decode()})
    for info in installed.root.glob("sglang-*.dist-info"):
        shutil.copytree(info, site / info.name)
    before = fingerprint(site)
    copy_pristine(copy, site)
    assert read_state(series, find_target(copy)).overall == "unpatched"
    assert fingerprint(site) == before
