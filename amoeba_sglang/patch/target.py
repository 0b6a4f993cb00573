"""The SGLang to patch: where its files are, and which version it is."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.git import run_git
from amoeba_sglang.patch.series import UPSTREAM_VERSION

_REINSTALL = f"pip install --force-reinstall --no-deps sglang=={UPSTREAM_VERSION}"


@dataclass(frozen=True)
class Target:
    """`root` holds the directory `sglang`: a site-packages, or `python` in an upstream checkout.

    `version` is None if it cannot be read (a checkout without tags). `remedy` says what to do about
    a file that was changed by hand.
    """

    root: Path
    version: str | None
    remedy: str

    def locate(self, path: str) -> Path:
        """Where the file `path` of the upstream repository (`python/sglang/...`) is."""
        return self.root / path.removeprefix("python/")

    def read(self, path: str) -> bytes | None:
        """The content of `path` of the upstream repository, None if there is no such file."""
        file = self.locate(path)
        return file.read_bytes() if file.exists() else None


def find_target(directory: Path | None = None) -> Target:
    """Look at `directory`: a site-packages, an sglang package or a checkout; None: the installed.

    Raises ConfigError if no sglang is there or it is of another version than the patches are for.
    """
    root = _find_root(directory)
    distributions = [path.name for path in root.glob("sglang-*.dist-info")]
    if len(distributions) > 1:
        raise ConfigError(
            f"{root} has {len(distributions)} sglang-*.dist-info directories; {_REINSTALL}"
        )
    version: str | None
    if distributions:
        name = distributions[0].removeprefix("sglang-").removesuffix(".dist-info")
        version, remedy = name.partition("+")[0], f"reinstall it ({_REINSTALL})"
    else:
        version, remedy = _read_tag(root), "undo the local change (git diff shows it)"
    if version not in (None, UPSTREAM_VERSION):
        raise ConfigError(
            f"sglang in {root} is version {version}, but the patches are for {UPSTREAM_VERSION}: "
            f"{_REINSTALL}, or git checkout v{UPSTREAM_VERSION}"
        )
    return Target(root, version, remedy)


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


def _read_tag(root: Path) -> str | None:
    """The version by the nearest tag of a checkout, as setuptools_scm would find it."""
    checkout = root.parent if root.name == "python" else root
    # Reading tags is harmless in a repository of another user, which a mounted checkout often is.
    command = ["-c", "safe.directory=*", "describe", "--tags", "--match", "v[0-9]*", "--abbrev=0"]
    answer = run_git(command, checkout)
    return answer.stdout.strip().removeprefix("v") if answer.returncode == 0 else None
