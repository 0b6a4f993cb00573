from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from amoeba_sglang.patch import git as patch_git
from amoeba_sglang.patch.series import Series, load_series
from amoeba_sglang.patch.state import PatchState, read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.trees import PRISTINE, expect, fingerprint, git, read_tree, write_tree


def look(series: Series, place: Path) -> tuple[str, list[str]]:
    state = read_state(series, find_target(place))
    return state.overall, [state.of_patch(patch) for patch in series.patches]


def put(root: Path, tree: dict[str, str]) -> None:
    """Make the package below `root` exactly `tree`."""
    write_tree(root, dict.fromkeys(read_tree(root)))
    write_tree(root, tree)
    assert read_tree(root) == tree


@pytest.mark.parametrize("installed", [True, False])
def test_every_prefix_of_the_series_is_told(
    series: Series, site: Path, checkout: Path, installed: bool
) -> None:
    place = site if installed else checkout
    root = site if installed else checkout / "python"
    seen = []
    for level in range(4):
        put(root, expect(level))
        overall, patches = look(series, place)
        assert patches == ["applied"] * level + ["not applied"] * (3 - level)
        seen.append(overall)
    assert seen == ["unpatched", "partial", "partial", "patched"]


def test_reading_changes_nothing(series: Series, site: Path) -> None:
    before = fingerprint(site)
    read_state(series, find_target(site))
    assert fingerprint(site) == before


def test_known_contents_hold_both_ends_at_every_level(series: Series, site: Path) -> None:
    for level in range(4):
        put(site, expect(level))
        for file in read_state(series, find_target(site)).files:
            path = file.path.removeprefix("python/")
            ends = [end and end.decode() for end in (file.pristine, file.found, file.patched)]
            assert ends == [expect(n).get(path) for n in (0, level, 3)]


def test_mixture_of_a_crash_is_partial(series: Series, site: Path) -> None:
    put(site, expect(0) | {"sglang/srt/b.py": expect(3)["sglang/srt/b.py"]})
    assert look(series, site) == ("partial", ["not applied", "half applied", "not applied"])


def problem(state: PatchState) -> str:
    assert state.overall == "modified"
    return state.problem


def test_change_inside_a_hunk_names_file_and_patch(
    series: Series, site: Path, checkout: Path
) -> None:
    for place, root in ((site, site), (checkout, checkout / "python")):
        file = root / "sglang/srt/b.py"
        file.write_text(file.read_text().replace("line 21\n", "mine\n"))
        text = problem(read_state(series, find_target(place)))
        assert f"{file} is locally modified: {series.patches[1].path.name} neither applies" in text
        assert look(series, place)[1] == ["not applied", "conflicting", "not applied"]


@pytest.mark.parametrize("level", [0, 3])
def test_change_outside_the_hunks_is_told_by_the_record(
    series: Series, site: Path, checkout: Path, level: int
) -> None:
    for root in (site, checkout / "python"):
        put(root, expect(level))
        file = root / "sglang/srt/a.py"
        file.write_text(file.read_text().replace("line 39\n", "mine\n"))
    text = problem(read_state(series, find_target(site)))
    assert "sglang/srt/a.py is locally modified: outside the patches it differs" in text
    # Without a RECORD nobody knows what is pristine, and git am would take it too.
    assert look(series, checkout)[0] == ("patched" if level else "unpatched")


def test_missing_and_unexpected_files_are_modified(series: Series, site: Path) -> None:
    (site / "sglang/srt/b.py").unlink()
    assert problem(read_state(series, find_target(site))).endswith("b.py is missing")
    put(site, PRISTINE | {"sglang/srt/fresh/new.py": "somebody else's\n"})
    assert "fresh/new.py is locally modified" in problem(read_state(series, find_target(site)))


def test_other_edition_of_a_patch_is_not_ours(series: Series, site: Path) -> None:
    tree = expect(3)
    put(site, tree | {"sglang/srt/b.py": tree["sglang/srt/b.py"].replace("seam three", "seam 3")})
    assert "b.py is locally modified" in problem(read_state(series, find_target(site)))


def test_line_that_moved_is_not_ours(series: Series, site: Path, checkout: Path) -> None:
    """git lets a hunk move, so a patch that sits in the wrong place must not count as applied."""
    block = "".join(f"line {number}\n" for number in range(5, 16))
    wrong = PRISTINE["sglang/srt/a.py"] + block.replace("line 10\n", "seam one\n")
    for root in (site, checkout / "python"):
        put(root, PRISTINE | {"sglang/srt/a.py": wrong})
    assert "a.py is locally modified" in problem(read_state(series, find_target(site)))
    assert look(series, checkout) == ("unpatched", ["not applied"] * 3)


def test_patch_that_would_fit_twice_is_told_as_applied(checkout: Path, tmp_path: Path) -> None:
    """Between equal lines an applied hunk fits again; without RECORD only the order helps."""
    root = checkout / "python"
    write_tree(root, {"sglang/same.py": "same\n" * 40})
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "equal lines")
    base = git(checkout, "rev-parse", "HEAD").strip()
    for tree in (
        {"sglang/same.py": "same\n" * 20 + "seam\n" + "same\n" * 20},
        {"sglang/srt/b.py": expect(3)["sglang/srt/b.py"]},
    ):
        write_tree(root, tree)
        git(checkout, "commit", "-qam", "seam")
    directory = tmp_path / "twice"
    names = git(checkout, "format-patch", "-o", directory, base).split()
    (directory / "series").write_text("".join(f"{Path(name).name}\n" for name in names))
    git(checkout, "reset", "-q", "--hard", "HEAD~1")
    git(checkout, "apply", "--check", names[0])
    assert look(load_series(directory), checkout) == ("partial", ["applied", "not applied"])


def test_scratch_inside_a_repository_and_git_environment_do_no_harm(
    series: Series, site: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = checkout / "python" / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout))
    assert look(series, site)[0] == "unpatched"
    put(site, expect(3))
    assert look(series, site)[0] == "patched"


def test_users_git_configuration_does_not_count(
    series: Series, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = "[core]\n\tautocrlf = true\n[apply]\n\twhitespace = error-all\n"
    (tmp_path / ".gitconfig").write_text(config)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert git(tmp_path, "config", "--global", "core.autocrlf").strip() == "true"
    put(site, expect(3))
    state = read_state(series, find_target(site))
    assert state.overall == "patched"
    assert not any(b"\r" in (file.pristine or b"") for file in state.files)


def test_patched_state_costs_few_processes(
    series: Series, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = subprocess.run

    def count(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(patch_git.subprocess, "run", count)
    put(site, expect(3))
    assert look(series, site)[0] == "patched"
    assert 1 <= len(calls) <= 3
