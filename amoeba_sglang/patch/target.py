"""The SGLang to patch: where its files are, which version it is, and what its wheel contained."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.git import read_file, run_git
from amoeba_sglang.patch.series import UPSTREAM_VERSION

_REINSTALL = f"pip install --force-reinstall --no-deps sglang=={UPSTREAM_VERSION}"


@dataclass(frozen=True)
class Target:
    """`root` holds the directory `sglang`: a site-packages, or `python` in an upstream checkout.

    `version` is None if it cannot be read (a checkout without tags). `record` maps the paths of an
    installed wheel below `root` to their SHA-256 as RECORD writes it; None if there is no RECORD.
    """

    root: Path
    version: str | None
    record: Mapping[str, str] | None

    def locate(self, path: str) -> Path:
        """Where the file `path` of the upstream repository (`python/sglang/...`) is."""
        return self.root / path.removeprefix("python/")

    def read(self, path: str) -> bytes | None:
        """The content of `path` of the upstream repository, None if there is no such file."""
        return read_file(self.locate(path))

    def is_pristine(self, path: str, content: bytes | None) -> bool:
        """Whether `content` may be what upstream has at `path`; without RECORD anything may be."""
        if self.record is None:
            return True
        return self.record.get(path.removeprefix("python/")) == _hash(content)

    @property
    def remedy(self) -> str:
        """What to do about a file that was changed by hand."""
        if self.record is None:
            return "undo the local change (git diff shows it)"
        return f"reinstall it ({_REINSTALL})"


def find_target(directory: Path | None = None) -> Target:
    """Look at `directory`: a site-packages, an sglang package or a checkout; None: the installed.

    Raises ConfigError if no sglang is there or it is of another version than the patches are for.
    """
    root = _find_root(directory)
    version, record = _read_distribution(root)
    if version is None:
        version = _read_tag(root)
    if version not in (None, UPSTREAM_VERSION):
        raise ConfigError(
            f"sglang in {root} is version {version}, but the patches are for {UPSTREAM_VERSION}"
        )
    return Target(root, version, record)


def _find_root(directory: Path | None) -> Path:
    if directory is None:
        # Of a top-level package find_spec only looks for the file, it imports nothing.
        spec = importlib.util.find_spec("sglang")
        if spec is None or spec.origin is None:
            raise ConfigError(f"sglang is not installed: pip install sglang=={UPSTREAM_VERSION}")
        return Path(spec.origin).parent.parent
    directory = directory.resolve()
    if directory.name == "sglang" and (directory / "__init__.py").is_file():
        return directory.parent
    for root in (directory / "python", directory):
        if (root / "sglang" / "__init__.py").is_file():
            return root
    raise ConfigError(
        f"--target {directory} is neither a site-packages with sglang, nor an sglang package, "
        "nor a checkout of it"
    )


def _read_distribution(root: Path) -> tuple[str | None, Mapping[str, str] | None]:
    found = sorted(root.glob("sglang-*.dist-info"))
    if len(found) > 1:
        raise ConfigError(f"{root} has {len(found)} sglang-*.dist-info directories; {_REINSTALL}")
    if not found:
        return None, None
    version = found[0].name.removeprefix("sglang-").removesuffix(".dist-info").partition("+")[0]
    text = read_file(found[0] / "RECORD")
    if text is None:
        return version, None
    record = {}
    for line in text.decode().splitlines():
        path, _, rest = line.partition(",")
        if path.startswith("sglang/"):
            record[path] = rest.partition(",")[0]
    # An editable install lists none of its modules.
    return version, record or None


def _read_tag(root: Path) -> str | None:
    """The version by the nearest tag of a checkout, as setuptools_scm would find it."""
    checkout = root.parent if root.name == "python" else root
    # Reading tags is harmless in a repository of another user, which a mounted checkout often is.
    command = ["-c", "safe.directory=*", "describe", "--tags", "--match", "v[0-9]*", "--abbrev=0"]
    answer = run_git(command, checkout)
    return answer.stdout.strip().removeprefix("v") if answer.returncode == 0 else None


def _hash(content: bytes | None) -> str | None:
    if content is None:
        return None
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode()
