import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch import change
from amoeba_sglang.patch.change import apply_series, revert_series
from amoeba_sglang.patch.series import Series
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.trees import (
    PRISTINE,
    expect,
    fingerprint,
    git,
    read_tree,
    write_distribution,
    write_tree,
)


def test_checkout_gets_what_git_am_makes(series: Series, checkout: Path, tmp_path: Path) -> None:
    by_am = Path(shutil.copytree(checkout, tmp_path / "am"))
    git(by_am, "am", "-q", *series.paths)
    assert apply_series(series, find_target(checkout)) == 4
    assert read_tree(checkout / "python") == read_tree(by_am / "python") == expect(3)
    assert read_state(series, find_target(by_am)).overall == "patched"
    revert_series(series, find_target(checkout))
    assert git(checkout, "status", "--porcelain") == ""


def test_twice_is_refused_and_changes_nothing(series: Series, site: Path) -> None:
    target = find_target(site)
    with pytest.raises(ConfigError, match="is not patched; nothing was changed"):
        revert_series(series, target)
    assert read_tree(site) == PRISTINE
    apply_series(series, target)
    before = fingerprint(site)
    with pytest.raises(ConfigError, match="is already patched; nothing was changed"):
        apply_series(series, target)
    assert fingerprint(site) == before


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("act", [apply_series, revert_series])
def test_modified_file_is_never_touched(
    series: Series, site: Path, level: int, act: Callable[..., int]
) -> None:
    write_tree(site, dict.fromkeys(PRISTINE))
    write_tree(site, expect(level))
    file = site / "sglang/srt/b.py"
    file.write_text(file.read_text().replace("line 39", "mine"))
    before = read_tree(site)
    with pytest.raises(ConfigError, match=r"b\.py is locally modified.*nothing was changed; re"):
        act(series, find_target(site))
    assert read_tree(site) == before


@pytest.mark.parametrize("act", [apply_series, revert_series])
def test_users_git_does_not_count(
    series: Series,
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[..., int],
) -> None:
    config = "[core]\n\tautocrlf = true\n[apply]\n\twhitespace = error-all\n"
    (tmp_path / ".gitconfig").write_text(config)
    (checkout / "python" / "tmp").mkdir()
    if act is revert_series:
        apply_series(series, find_target(checkout))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout))
    # A scratch directory inside a repository: git would skip what is above it.
    monkeypatch.setattr(tempfile, "tempdir", str(checkout / "python" / "tmp"))
    act(series, find_target(checkout))
    assert read_tree(checkout / "python") == expect(3 if act is apply_series else 0)


def test_patch_that_is_not_the_manifests_changes_nothing(series: Series, site: Path) -> None:
    path = series.paths[1]
    path.write_text(path.read_text().replace("seam three", "seam 3"))
    with pytest.raises(ConfigError, match="not those of its manifest; nothing was changed"):
        apply_series(series, find_target(site))
    path.write_text(path.read_text().replace("line 20", "line 200"))
    with pytest.raises(ConfigError, match="not those of its manifest; nothing was changed"):
        apply_series(series, find_target(site))
    assert read_tree(site) == PRISTINE


def fail_at(monkeypatch: pytest.MonkeyPatch, module: object, name: str, call: int) -> None:
    """Let one call of a function find the disk full, and the ones before and after work."""
    calls: list[int] = []
    real = getattr(module, name)

    def wrapped(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [(change.tempfile, "mkstemp", 2), (os, "fsync", 3), (os, "replace", 1)],
)
def test_failure_before_the_first_replacement_changes_nothing(
    series: Series,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    call: int,
) -> None:
    fail_at(monkeypatch, module, name, call)
    with pytest.raises(ConfigError, match="No space left on device; nothing was changed"):
        apply_series(series, find_target(site))
    assert read_tree(site) == PRISTINE
    apply_series(series, find_target(site))
    assert read_tree(site) == expect(3)


@pytest.mark.parametrize("mend", [apply_series, revert_series])
@pytest.mark.parametrize(("module", "name", "call"), [(os, "replace", 3), (Path, "unlink", 1)])
def test_failure_between_replacements_is_mended(
    series: Series,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    call: int,
    mend: Callable[..., int],
) -> None:
    fail_at(monkeypatch, module, name, call)
    with pytest.raises(ConfigError, match="some files are changed: mend that, then apply or rev"):
        apply_series(series, find_target(site))
    assert read_state(series, find_target(site)).overall == "partial"
    mend(series, find_target(site))
    assert read_tree(site) == (expect(3) if mend is apply_series else PRISTINE)


@pytest.mark.parametrize("mend", [apply_series, revert_series])
def test_crash_between_replacements_is_mended(
    series: Series, site: Path, mend: Callable[..., int]
) -> None:
    child = os.fork()
    if child == 0:
        calls = []
        real = os.replace

        def replace(*arguments: object) -> None:
            calls.append(1)
            if len(calls) == 2:
                os._exit(9)  # as SIGKILL: nothing of ours runs after it
            real(*arguments)

        os.replace = replace
        apply_series(series, find_target(site))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert any(".amoeba-patch-" in path for path in read_tree(site))
    assert read_state(series, find_target(site)).overall == "partial"
    mend(series, find_target(site))
    assert read_tree(site) == (expect(3) if mend is apply_series else PRISTINE)


def test_hard_links_of_other_environments_stay_as_they_are(
    series: Series, site: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(site, tmp_path / "other", copy_function=os.link))
    assert (site / "sglang/srt/a.py").samefile(other / "sglang/srt/a.py")
    apply_series(series, find_target(site))
    assert read_tree(other) == PRISTINE
    assert read_tree(site) == expect(3)
    # Files that no patch touches stay shared.
    assert (site / "sglang/srt/bystander.py").samefile(other / "sglang/srt/bystander.py")


def test_mode_is_kept_and_time_moves_on(series: Series, site: Path) -> None:
    file = site / "sglang/srt/a.py"
    file.chmod(0o755)
    times = [int(file.stat().st_mtime)]
    for act in (apply_series, revert_series, apply_series):
        act(series, find_target(site))
        times.append(int(file.stat().st_mtime))
    # Whole seconds, as a .pyc has them.
    assert times == sorted(set(times))
    assert file.stat().st_mode & 0o777 == 0o755
    assert (site / "sglang/srt/new.py").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def foreign_site() -> Iterator[Path]:
    """A site-packages that an unprivileged user can read and not write."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "site-packages"
        write_tree(root, PRISTINE)
        write_distribution(root)
        directories = (Path(name), *(d for d in Path(name).rglob("*") if d.is_dir()))
        for directory in directories:
            directory.chmod(0o555)
        yield root
        for directory in directories:
            directory.chmod(0o755)


def test_unwritable_target_is_one_clear_line(series: Series, foreign_site: Path) -> None:
    # The patches are below a directory of pytest that only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy = Path(shutil.copytree(series.directory, Path(name) / "series"))
        copy.chmod(0o755)
        readable = Series(copy, series.patches, series.hashes)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(ConfigError) as caught:
                apply_series(readable, find_target(foreign_site))
        finally:
            if root:
                os.seteuid(0)
    file = foreign_site / "sglang/srt/a.py"
    assert str(caught.value) == f"cannot write {file}: Permission denied; nothing was changed"
    assert read_tree(foreign_site) == PRISTINE


def test_one_run_at_a_time(series: Series, site: Path) -> None:
    target = find_target(site)
    with change._locked(target), pytest.raises(ConfigError, match="another run of this tool"):
        apply_series(series, target)
    assert read_tree(site) == PRISTINE
