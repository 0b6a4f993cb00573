"""The tool as a user runs it: a copy of the package with a series of its own, in processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import amoeba_sglang
from tests.patch.trees import PRISTINE, expect, git, read_tree

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repository(directory: Path, tmp_path: Path) -> Path:
    """A source checkout of this project with the small series."""
    package = tmp_path / "repository" / "amoeba_sglang"
    source = Path(amoeba_sglang.__file__).parent
    shutil.copytree(source / "patch", package / "patch")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(source / name, package / name)
    shutil.copytree(directory, package.parent / "patches" / "sglang-0.5.23")
    return package.parent


@pytest.fixture
def run_python(repository: Path, site: Path) -> Run:
    """Run Python where the copies of Amoeba and sglang are what `import` finds."""

    def run(*arguments: str | Path, path: str | None = None) -> tuple[int, str, str]:
        environment = os.environ | {"PYTHONPATH": f"{repository}:{site}"}
        if path is not None:
            environment["PATH"] = path
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=site.parent,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def tool(run_python: Run) -> Run:
    return lambda *arguments, **options: run_python(
        "-m", "amoeba_sglang.patch", *arguments, **options
    )


def one_line(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert (code, out, err.count("\n")) == (1, "", 1), answer
    return err


def test_round_trip_on_the_installed_sglang(tool: Run, site: Path) -> None:
    assert tool("check")[0] == 1
    assert tool("apply") == (0, f"applied 3 patches (4 files changed) in {site}\n", "")
    code, out, err = tool("check")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        ["applied", "+1", "-1"],
        ["applied", "+3", "-2"],
        ["applied", "+1", "-1"],
    ]
    assert lines[3:] == [f"patched: sglang 0.5.23 in {site}"]
    assert "already patched; nothing was changed" in one_line(tool("apply"))
    assert read_tree(site) == expect(3)
    assert tool("revert") == (0, f"reverted 3 patches (4 files changed) in {site}\n", "")
    assert "is not patched; nothing was changed" in one_line(tool("revert"))
    assert read_tree(site) == PRISTINE


def test_status_reports_trouble_without_failing(tool: Run, site: Path) -> None:
    (site / "sglang/srt/b.py").write_text("mine\n")
    code, out, _ = tool("status")
    assert code == 0
    assert "modified: sglang" in out
    assert "b.py is locally modified: it is neither" in out
    assert tool("check")[0] == 1
    assert "b.py is locally modified" in one_line(tool("apply"))


def test_checkout_of_unknown_version_is_accepted_if_all_fits(tool: Run, checkout: Path) -> None:
    git(checkout, "tag", "-d", "v0.5.23")
    assert "of unknown version" in tool("status", "--target", checkout)[1]
    code, out, _ = tool("apply", "--target", checkout)
    assert code == 0
    assert "its version cannot be read, but every patch fits" in out
    assert read_tree(checkout / "python") == expect(3)


def test_wrong_version(tool: Run, make_site: Callable[..., Path]) -> None:
    old = make_site("old", "0.5.22")
    for command in ("apply", "revert", "status", "check"):
        text = one_line(tool(command, "--target", old))
        assert "is version 0.5.22, but the patches are for 0.5.23" in text
    assert read_tree(old) == PRISTINE


def test_what_is_missing_is_named(
    run_python: Run, tool: Run, repository: Path, site: Path, tmp_path: Path
) -> None:
    assert tool("status", path=str(tmp_path))[0] == 0
    assert "git is not on PATH" in one_line(tool("apply", path=str(tmp_path)))
    shutil.move(site / "sglang", tmp_path / "moved")
    # -S leaves out the site-packages of this Python, which have an sglang of their own.
    assert "sglang is not installed" in one_line(
        run_python("-S", "-m", "amoeba_sglang.patch", "status")
    )
    shutil.rmtree(repository / "patches")
    assert f"no {repository}/patches/sglang-0.5.23/manifest.json" in one_line(tool("status"))


def test_wheel_carries_the_patches_inside_the_package(tool: Run, repository: Path) -> None:
    (repository / "patches").rename(repository / "amoeba_sglang" / "_patches")
    assert tool("apply")[0] == 0
    assert tool("check")[0] == 0


@pytest.mark.parametrize("arguments", [(), ("mend",), ("apply", "--force")])
def test_usage_errors_are_2(tool: Run, arguments: tuple[str, ...]) -> None:
    assert tool(*arguments)[0] == 2


REQUIRE = """
import sys
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.state import installed_state, require_patched
print(installed_state().overall)
try:
    require_patched()
except ConfigError as error:
    print(error)
assert not {"sglang", "torch"} & set(sys.modules)
"""


def test_launcher_guard_names_the_command(run_python: Run, tool: Run, site: Path) -> None:
    command = "python -m amoeba_sglang.patch apply"
    text = f"unpatched\nsglang in {site} is unpatched; run: {command}\n"
    assert run_python("-c", REQUIRE) == (0, text, "")
    tool("apply")
    assert run_python("-c", REQUIRE) == (0, "patched\n", "")
    (site / "sglang/srt/b.py").write_text(PRISTINE["sglang/srt/b.py"])
    text = f"partial\nsglang in {site} is partial; run: {command}\n"
    assert run_python("-c", REQUIRE) == (0, text, "")
    (site / "sglang/srt/b.py").write_text("mine\n")
    code, out, _ = run_python("-c", REQUIRE)
    assert code == 0
    assert out.startswith("modified\n")
    assert out.endswith(f"then run: {command}\n")
