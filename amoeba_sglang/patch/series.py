"""The patch series: where it is, what each patch is called and touches, and what files become."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError

UPSTREAM_VERSION = "0.5.23"
UPSTREAM_PREFIX = "python/sglang/"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Patch:
    """One patch file: `files` are paths in the upstream repository, `added` and `removed` lines."""

    name: str
    title: str
    files: tuple[str, ...]
    added: int
    removed: int


@dataclass(frozen=True)
class Series:
    """The patches of `directory` in order.

    `hashes`: of every touched file, by its path in the upstream repository, before and after them
    all; None where there is no file.
    """

    directory: Path
    patches: tuple[Patch, ...]
    hashes: Mapping[str, tuple[str | None, str | None]]

    @property
    def paths(self) -> list[Path]:
        """The patch files, in order."""
        return [self.directory / patch.name for patch in self.patches]


def find_directory() -> Path:
    """The directory of the series: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    name = f"sglang-{UPSTREAM_VERSION}"
    places = (package.parent / "patches" / name, package / "_patches" / name)
    for place in places:
        if (place / MANIFEST).is_file():
            return place
    raise ConfigError(f"the patches for {name} are missing: there is no {places[0]}/{MANIFEST}")


def load_series(directory: Path | None = None) -> Series:
    """Read the manifest in `directory`, by default that of Amoeba's own series."""
    directory = find_directory() if directory is None else directory
    manifest = json.loads((directory / MANIFEST).read_text())
    patches = tuple(
        Patch(**fields | {"files": tuple(fields["files"])}) for fields in manifest["patches"]
    )
    return Series(directory, patches, {p: tuple(ends) for p, ends in manifest["files"].items()})


def hash_content(content: bytes | None) -> str | None:
    """The SHA-256 that a manifest knows a file by; None, no file, stays None."""
    return None if content is None else hashlib.sha256(content).hexdigest()
