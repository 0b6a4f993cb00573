"""Running git, away from the user's repositories and configuration."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from amoeba_sglang.errors import ConfigError


def run_git(arguments: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run git in `directory`; the caller looks at the return code. ConfigError without a git."""
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
        raise ConfigError("git is not on PATH; Amoeba applies its patches with it") from None
