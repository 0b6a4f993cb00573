"""Nothing that setup installs is built from source: pip itself refuses it, file by file."""

import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("requirements*.txt"))


def options_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.startswith("--")]


def names_of(file: Path) -> set[str]:
    lines = (line.strip() for line in file.read_text().splitlines())
    return {line.partition("==")[0] for line in lines if line and line[0] not in "#-"}


def test_setup_s_files_are_there():
    names = [file.name for file in FILES]
    assert names == ["requirements-dev.txt", "requirements-model.txt", "requirements.txt"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_pip_refuses_a_source_distribution(file, tmp_path):
    source = tmp_path / "only-source-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for name, text in {"PKG-INFO": "Name: only-source\nVersion: 1.0\n", "setup.py": ""}.items():
            entry = tarfile.TarInfo(f"only-source-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("\n".join([*options_of(file), "only-source==1.0"]))
    command = f"-m pip install --isolated --no-index --dry-run --no-deps --find-links {tmp_path}"
    done = subprocess.run(
        [sys.executable, *command.split(), "-r", wanted], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "No matching distribution found for only-source==1.0" in done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_requirement_of_ours_is_an_exception(file):
    exceptions = {
        name
        for option in options_of(file)
        if option.startswith("--no-binary")
        for name in option.removeprefix("--no-binary").strip(" =").split(",")
    }
    assert not exceptions & set().union(*map(names_of, FILES))


def test_package_asks_pip_for_sglang_and_what_that_brings():
    """Metadata cannot say --no-deps: an extra with the model would compile its dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["sglang==0.5.23", "regex", "httpx", "rich"]
    assert "optional-dependencies" not in project
