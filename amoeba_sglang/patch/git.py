"""Running git on patches, in a scratch tree that no repository can claim."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from amoeba_sglang.errors import ConfigError

Contents = dict[str, bytes | None]
"""Path inside the upstream repository -> content of the file, None where there is none."""


def run_git(arguments: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run git in `directory`, away from the user's configuration.

    The caller looks at the return code. Raises ConfigError when there is no git.
    """
    # A GIT_DIR inherited from a hook, or whitespace rules in a user's configuration, would change
    # what `apply` does. Below a repository `apply` silently skips paths, hence the ceiling.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(directory.resolve().parent),
        "LC_ALL": "C",
    }
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise ConfigError(
            "git is not on PATH; Amoeba applies and checks its patches with it"
        ) from None


def transform(
    contents: Mapping[str, bytes | None],
    patches: Sequence[Path],
    *,
    reverse: bool = False,
) -> Contents | None:
    """The contents after `patches`, in order; None if one does not fit.

    `reverse` takes the patches off instead, the last one first. Only the paths in `contents` are
    changed; what a patch does to other files is left out.
    """
    if not patches:
        return dict(contents)
    with tempfile.TemporaryDirectory(prefix="amoeba-patch-") as name:
        tree = Path(name)
        for path, content in contents.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (tree / path).write_bytes(content)
        options = ["--whitespace=nowarn", *(f"--include={path}" for path in contents)]
        if reverse:
            options.append("--reverse")
            patches = patches[::-1]
        if run_git(["apply", *options, *patches], tree).returncode != 0:
            return None
        return {path: read_file(tree / path) for path in contents}


def read_file(path: Path) -> bytes | None:
    """The bytes of a file, or None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
