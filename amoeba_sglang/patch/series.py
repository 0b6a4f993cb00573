"""The patch series: where it is, and what each patch is called and touches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.git import run_git

UPSTREAM_VERSION = "0.5.23"
UPSTREAM_PREFIX = "python/sglang/"


@dataclass(frozen=True)
class Patch:
    """One patch file.

    `files` are paths inside the upstream repository; `added` and `removed` count lines.
    """

    path: Path
    title: str
    files: tuple[str, ...]
    added: int
    removed: int


@dataclass(frozen=True)
class Series:
    """The patches in order, for one version of upstream."""

    version: str
    patches: tuple[Patch, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Every path that the series touches, once, in the order of first touch."""
        return tuple(dict.fromkeys(path for patch in self.patches for path in patch.files))

    def patches_of(self, path: str) -> tuple[Patch, ...]:
        """The patches that touch `path`, in order."""
        return tuple(patch for patch in self.patches if path in patch.files)


def find_directory() -> Path:
    """The directory of the series: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    name = f"sglang-{UPSTREAM_VERSION}"
    places = (package.parent / "patches" / name, package / "_patches" / name)
    for place in places:
        if (place / "series").is_file():
            return place
    raise ConfigError(f"the patches for {name} are missing: there is no {places[0]}/series")


def list_names(directory: Path) -> list[str]:
    """The patch file names in the `series` file: one a line, `#` starts a comment."""
    lines = (directory / "series").read_text().splitlines()
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def load_series(directory: Path | None = None) -> Series:
    """Read the series in `directory`, by default Amoeba's own.

    Raises ConfigError for a missing or empty series and for a patch that this tool cannot handle.
    """
    directory = find_directory() if directory is None else directory
    names = list_names(directory)
    if not names:
        raise ConfigError(f"{directory}/series names no patch")
    for name in names:
        if not (directory / name).is_file():
            raise ConfigError(f"{directory}/series names {name}, which does not exist")
    return Series(UPSTREAM_VERSION, tuple(_read_patch(directory / name) for name in names))


def _read_patch(path: Path) -> Patch:
    answer = run_git(["apply", "--numstat", "--summary", path.resolve()], path.resolve().parent)
    if answer.returncode != 0:
        raise ConfigError(f"{path.name} is not a patch: {answer.stderr.strip().splitlines()[0]}")
    files, added, removed = [], 0, 0
    for line in answer.stdout.splitlines():
        if line.startswith((" create", " delete")):
            continue
        plus, _, rest = line.partition("\t")
        minus, _, file = rest.partition("\t")
        if not (plus.isdecimal() and minus.isdecimal()):
            raise ConfigError(f"{path.name}: renames, modes and binary files are not supported")
        if not file.startswith(UPSTREAM_PREFIX):
            raise ConfigError(f"{path.name} touches {file}, outside {UPSTREAM_PREFIX}")
        files.append(file)
        added += int(plus)
        removed += int(minus)
    return Patch(path.resolve(), _read_title(path), tuple(files), added, removed)


def _read_title(path: Path) -> str:
    text = path.read_text(errors="replace")
    match = re.search(r"^Subject: (.*(?:\n[ \t].*)*)", text, re.MULTILINE)
    if match is None:
        raise ConfigError(f"{path.name} has no Subject line")
    return re.sub(r"^\[[^]]*\]\s*", "", re.sub(r"\s*\n\s*", " ", match[1]))
